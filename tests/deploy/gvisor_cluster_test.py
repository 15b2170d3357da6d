"""The image of the engine with gVisor, built by its recipe on a base of this machine.

It needs no cluster, but a minute and Debian's packages, as the images that the tests of clusters build.
"""

import json
import shutil
from collections.abc import Iterator

import docker
import pytest

from tests.deploy.image_docker_test import LIST_PACKAGES, packages_of
from tests.deploy.manifests import KUBERNETES
from tools.engine.ensure import Engine
from tools.images import sbom

pytestmark = pytest.mark.timeout(800)

TAG = "the0-test/engine-gvisor:latest"
# Any image does: the recipe adds one static program to it.
ENGINE = "python:3.11-slim"


@pytest.fixture(scope="module")
def client(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[docker.DockerClient]:
    """An engine that has the image, until the end of the tests."""
    context = tmp_path_factory.mktemp("context")
    shutil.copy(sbom.__file__, context / "sbom.py")
    shutil.copy(KUBERNETES / "components" / "gvisor" / "Dockerfile", context)
    client = docker.DockerClient(docker_engine.url, timeout=600)
    # The host's network: where package sources are reached through it alone, containers of the bridge reach none.
    client.images.build(path=str(context), tag=TAG, buildargs={"ENGINE": ENGINE}, network_mode="host", rm=True)
    try:
        yield client
    finally:
        client.images.remove(TAG, force=True)
        client.close()


def test_engine_image_has_runsc_and_lists_it_with_what_the_base_has(client: docker.DockerClient) -> None:
    image = client.images.get(TAG)
    command = f"runsc --version && cat {image.labels['the0.sbom']} && {LIST_PACKAGES}"

    answer = client.containers.run(image, ["-c", command], entrypoint="sh", user="0", remove=True).decode()

    version, _, rest = answer.partition("{")
    text, _, packages = rest.partition("PACKAGES\n")
    listed = {(one["purl"].split("/")[0], one["name"], one["version"]) for one in json.loads("{" + text)["components"]}
    (runsc,) = [one for one in listed if one[1] == "runsc"]
    assert runsc[0] == "pkg:deb"
    assert runsc[2].partition("-")[0].partition("+")[0] in version
    assert listed - {runsc} == packages_of(packages)
