"""Fixtures: a Kubernetes cluster, and a namespace for each test."""

import asyncio
import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import pytest_asyncio

from tests.cluster.layout import KUBECONFIG
from tests.cluster.load import load_images
from tests.support.servers.real_cluster import kubectl
from tools.engine.ensure import Engine

PYTHON_IMAGE = "python:3.11-slim"


@dataclass(frozen=True)
class Cluster:
    """A reachable cluster; *kubeconfig* makes its user the administrator."""

    kubeconfig: str

    async def kubectl(self, *arguments: str) -> str:
        """Run kubectl and return what it printed."""
        return await kubectl(self.kubeconfig, *arguments)

    async def read(self, *arguments: str) -> dict[str, Any]:
        """Return the object or the list of `kubectl get`."""
        found: dict[str, Any] = json.loads(await self.kubectl("get", *arguments, "--output=json"))
        return found

    async def apply(self, *objects: dict[str, Any]) -> None:
        """Create or update the objects."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"apiVersion": "v1", "kind": "List", "items": objects}, file)
            file.flush()
            await self.kubectl("apply", "--filename", file.name)

    @contextlib.asynccontextmanager
    async def namespace(self) -> AsyncIterator[str]:
        """A new namespace, which is deleted with its objects."""
        name = f"the0-test-{secrets.token_hex(4)}"
        await self.kubectl("create", "namespace", name)
        try:
            yield name
        finally:
            await self.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster of TEST_KUBECONFIG."""
    kubeconfig = os.environ.get("TEST_KUBECONFIG")
    if not kubeconfig:
        reason = "no test cluster: run `tests/cluster/up` and set TEST_KUBECONFIG to what it prints"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Cluster(kubeconfig)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def python_image(cluster: Cluster, docker_engine: Engine) -> str:
    """The image of Python bots. The nodes of `tests/cluster/up` have it from the machine's engine, others pull it."""
    if cluster.kubeconfig == str(KUBECONFIG):
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "image.tar"
            await asyncio.to_thread(_save, docker_engine.url, PYTHON_IMAGE, archive)
            await load_images([archive])
    return PYTHON_IMAGE


@pytest_asyncio.fixture(loop_scope="session")
async def namespace(cluster: Cluster) -> AsyncIterator[str]:
    """A namespace for the test."""
    async with cluster.namespace() as name:
        yield name


def _save(url: str, image: str, archive: Path) -> None:
    client = docker.DockerClient(base_url=url, timeout=300)
    try:
        with archive.open("wb") as file:
            for chunk in client.api.get_image(image):
                file.write(chunk)
    finally:
        client.close()
