"""Fixtures of the tests that apply overlays."""

import asyncio

import docker
import pytest
import pytest_asyncio

import tests.support.servers.cluster
from tests.cluster.layout import KUBECONFIG
from tests.cluster.load import load_images
from tests.cluster.overlays.cluster import OverlayCluster
from tests.support.rigs.service_images import TAGS, are_packaged, build_service_images
from tools.engine.ensure import Engine
from tools.images.third_party.archives import cached_archives
from tools.images.third_party.ensure import export


@pytest.fixture(scope="session", name="cluster")
def overlay_cluster(cluster: tests.support.servers.cluster.Cluster) -> OverlayCluster:
    """The test cluster, with the operations that tests of overlays need."""
    return OverlayCluster(cluster.kubeconfig)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def images(cluster: OverlayCluster, docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> None:
    """All images that the dev overlay names, on every node of `tests/cluster/up`.

    In a build, the services' images contain the present code. Without one, `./pants package ::` has left them on the
    machine's engine. Load all of them into the nodes of another cluster first.
    """
    if cluster.kubeconfig != str(KUBECONFIG):
        return
    if are_packaged():
        client = docker.DockerClient(base_url=docker_engine.url, timeout=600)
        try:
            await asyncio.to_thread(build_service_images, client, tmp_path_factory.mktemp("context"))
        finally:
            client.close()
    services = await export(docker_engine, TAGS, tmp_path_factory.mktemp("images"))
    await load_images([*await cached_archives(docker_engine), *services])
