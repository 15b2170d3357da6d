"""Fixtures: a Docker engine with the bots' images, and a label for all containers of one test."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import docker
import pytest_asyncio
from docker.errors import APIError, NotFound

from tools.engine.ensure import Engine, ensure_engine
from tools.images.ensure import ensure_images


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def docker_engine() -> Engine:
    """The Docker engine of this machine with the images of both runtimes; `.url`."""
    engine = await ensure_engine()
    await ensure_images(engine)
    return engine


@pytest_asyncio.fixture(loop_scope="session")
async def scope(docker_engine: Engine) -> AsyncIterator[str]:
    """A container scope that no other test uses. Containers labelled with it are removed after the test."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    await asyncio.to_thread(remove_containers, docker_engine, name)


def remove_containers(engine: Engine, scope: str) -> list[str]:
    """Remove all containers with this scope, running or not, and return their names."""
    client = docker.DockerClient(base_url=engine.url, timeout=60)
    try:
        removed = []
        for summary in client.api.containers(all=True, filters={"label": f"runtime.scope={scope}"}):
            try:
                client.api.remove_container(summary["Id"], force=True, v=True)
                removed.append(summary["Names"][0].lstrip("/"))
            except (NotFound, APIError) as error:
                # Removed already, or by the test's own shutdown.
                if error.status_code not in (404, 409):
                    raise
        return removed
    finally:
        client.close()
