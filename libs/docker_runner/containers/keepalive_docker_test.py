"""Keepalive files and a real engine: what it sees of a host, and containers that watch a file where it was before."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from libs.docker_runner.containers.container import ContainerState, EndReason
from libs.docker_runner.containers.keepalive import KeepaliveFile, SegmentKeepalive
from libs.docker_runner.engine.client import Engine as Connection
from libs.docker_runner.executable import Network
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tools.engine.ensure import Engine

LEASE_SECONDS = 5.0
FOREVER = "import time\ndef main(id, config):\n while True: time.sleep(1)"


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.NONE) as bots:
        yield bots


async def test_folders_visible_to_the_engine_are_found_without_a_container(
    tmp_path: Path, docker_engine: Engine
) -> None:
    connection = Connection(docker_engine.url)
    try:
        before = await connection.list({})

        assert await connection.sees(tmp_path) is True
        assert await connection.sees(tmp_path / "none") is False
        probes = [one for one in await connection.list({}) if "probe" in one.name]
        assert probes == [one for one in before if "probe" in one.name] == []
    finally:
        await connection.close()


async def test_a_container_that_watches_a_former_file_lives_and_ends_with_its_segment(
    bots: BotContainers, tmp_path: Path
) -> None:
    former = KeepaliveFile(tmp_path / "former" / "1", LEASE_SECONDS)
    former.refresh(time.monotonic() + LEASE_SECONDS)
    keepalive = SegmentKeepalive(tmp_path / "new" / "1", LEASE_SECONDS, former=[former.folder])
    refreshing = asyncio.create_task(refresh(keepalive))
    try:
        container = await bots.runner.start(bots.executable(FOREVER, keepalive=former.folder))
        until = time.monotonic() + 2 * LEASE_SECONDS
        await eventually(lambda: time.monotonic() > until)
        seen = await bots.runner.inspect(container)
        assert seen is not None
        assert seen.state is ContainerState.RUNNING
        assert seen.keepalive == str(former.folder)
    finally:
        refreshing.cancel()

    keepalive.expire()

    async def over() -> bool:
        found = await bots.runner.inspect(container)
        return found is not None and found.state is ContainerState.EXITED

    await eventually(over)
    assert (await bots.runner.stop(container)).reason is EndReason.LEASE_LOST


async def refresh(keepalive: KeepaliveFile) -> None:
    """Renew as a worker does."""
    while True:
        await asyncio.to_thread(keepalive.refresh, time.monotonic() + LEASE_SECONDS)
        await asyncio.sleep(0.5)
