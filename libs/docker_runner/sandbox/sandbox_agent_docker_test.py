"""The host agent: what outlives its keepalive is killed from outside of the container, even if the engine hangs."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest
import pytest_asyncio
from docker.errors import APIError
from docker.models.containers import Container
from docker.types import Mount

from libs.core.leases.boot_clock import boot_seconds
from libs.docker_runner.containers.container import ContainerState, EndReason, ManagedContainer
from libs.docker_runner.containers.keepalive import KeepaliveFile
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.executable import Network
from libs.docker_runner.sandbox.host_agent import NAME, HostAgent
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tests.support.servers.own_engine import OwnEngine

LIFE_SECONDS = 5.0
# It needs hundredths of a second, and more on a machine that is busy.
BUSY_SECONDS = 20.0
IMAGE = "python:3.11-slim"
TICKING = """
import time
def main(id, config):
    while True:
        print(f"tick {time.clock_gettime(time.CLOCK_BOOTTIME)}", flush=True)
        time.sleep(0.02)
"""


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, private_engine: OwnEngine) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, private_engine.url, network=Network.NONE) as bots:
        yield bots
    private_engine.thaw()
    await private_engine.remove_containers()


@pytest_asyncio.fixture(loop_scope="session")
async def agent(bots: BotContainers, private_engine: OwnEngine, tmp_path: Path) -> AsyncIterator[HostAgent]:
    """A host agent that runs, as a worker sees it."""
    engine = Engine(private_engine.url)
    agent = HostAgent(engine, IMAGE, bots.runner.entrypoints, tmp_path / "keepalives")
    try:
        await agent.want_once()
        await agent.keep_once()
        yield agent
    finally:
        await engine.close()


@pytest.fixture
def client(private_engine: OwnEngine) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(private_engine.url)
    yield client
    client.close()


async def started(bots: BotContainers, folder: Path, bot_id: str = "b1") -> tuple[KeepaliveFile, ManagedContainer]:
    """A bot that ticks, whose keepalive is not refreshed any more."""
    keepalive = KeepaliveFile(folder, LIFE_SECONDS)
    keepalive.refresh(boot_seconds() + LIFE_SECONDS)
    container = await bots.runner.start(bots.executable(TICKING, bot_id, keepalive=keepalive.folder))
    await eventually(lambda: has_ticked(bots, container))
    keepalive.refresh(boot_seconds() + LIFE_SECONDS)
    return keepalive, container


async def has_ticked(bots: BotContainers, container: ManagedContainer) -> bool:
    return bool(await ticks(bots, container))


async def ticks(bots: BotContainers, container: ManagedContainer) -> list[float]:
    return [float(line.data.split()[1]) async for line in bots.runner.logs(container) if b"tick" in line.data]


def stranger(client: docker.DockerClient, folder: Path) -> Container:
    """A container that is none of the runtime, with a folder of its own where a bot has its keepalive."""
    mount = Mount("/run/the0/keepalive", str(folder), type="bind", read_only=True)
    return client.containers.run(
        IMAGE, ["sleep", "600"], detach=True, network_mode="none", mounts=[mount], stop_signal="SIGKILL"
    )


async def test_a_paused_container_is_killed_when_its_keepalive_expires_so_that_unpausing_finds_nothing(
    bots: BotContainers, agent: HostAgent, client: docker.DockerClient, private_engine: OwnEngine, tmp_path: Path
) -> None:
    keepalive, container = await started(bots, tmp_path / "lapsed")
    other = await asyncio.to_thread(stranger, client, keepalive.folder)
    process = await private_engine.process(container.container_id)
    paused = await asyncio.to_thread(client.containers.get, container.container_id)
    await asyncio.to_thread(paused.pause)
    paused_at = boot_seconds()

    await eventually(lambda: not process.exists(), within_seconds=BUSY_SECONDS)

    with pytest.raises(APIError):
        await asyncio.to_thread(paused.unpause)
    assert max(await ticks(bots, container)) <= paused_at
    ended = await bots.runner.exit_info(container)
    assert ended is not None
    assert (ended.reason, ended.exit_code) == (EndReason.LEASE_LOST, 137)
    await asyncio.to_thread(other.reload)
    assert other.status == "running"


async def test_a_container_whose_init_is_stopped_is_killed_while_engine_and_containerd_hang(
    bots: BotContainers, agent: HostAgent, private_engine: OwnEngine, tmp_path: Path
) -> None:
    _, container = await started(bots, tmp_path / "lapsed")
    process = await private_engine.process(container.container_id)
    private_engine.freeze(containerd=True)
    os.kill(int(process.name), signal.SIGSTOP)

    await eventually(lambda: not process.exists(), within_seconds=BUSY_SECONDS)

    private_engine.thaw()
    await eventually(lambda: is_over(bots, container))
    assert max(await ticks(bots, container)) > 0


async def is_over(bots: BotContainers, container: ManagedContainer) -> bool:
    found = await bots.runner.inspect(container)
    return found is None or found.state is ContainerState.EXITED


async def test_the_init_ends_a_container_before_the_agent_and_refreshed_ones_stay(
    bots: BotContainers, agent: HostAgent, private_engine: OwnEngine, tmp_path: Path
) -> None:
    kept, live = await started(bots, tmp_path / "refreshed", "live")
    _, lapsed = await started(bots, tmp_path / "lapsed", "lapsed")

    async def lapsed_is_over() -> bool:
        await asyncio.to_thread(kept.refresh, boot_seconds() + LIFE_SECONDS)
        return await is_over(bots, lapsed)

    await eventually(lapsed_is_over, every_seconds=0.2)
    ended = await bots.runner.exit_info(lapsed)
    assert ended is not None
    assert ended.reason is EndReason.LEASE_LOST
    last = max(await ticks(bots, live))
    assert not await is_over(bots, live)
    await eventually(lambda: has_ticked_since(bots, live, last))


async def has_ticked_since(bots: BotContainers, container: ManagedContainer, last: float) -> bool:
    return max(await ticks(bots, container)) > last


async def test_the_agent_is_there_again_after_it_was_killed_and_reports_to_its_worker(
    bots: BotContainers, agent: HostAgent, private_engine: OwnEngine, client: docker.DockerClient
) -> None:
    await eventually(lambda: reports(agent))
    first = await private_engine.process(str((await asyncio.to_thread(client.containers.get, NAME)).id))
    [child] = (first / "task" / first.name / "children").read_text().split()

    os.kill(int(child), signal.SIGKILL)

    await eventually(lambda: is_started_again(client))
    assert agent.complaint == ""


async def reports(agent: HostAgent) -> bool:
    await agent.keep_once()
    return "runtime_host_agent_watched_containers" in {
        sample.name for metric in agent.collect() for sample in metric.samples
    }


async def is_started_again(client: docker.DockerClient) -> bool:
    output = await asyncio.to_thread(client.containers.get(NAME).logs)
    return b"starting it again" in output and output.count(b'"alive"') >= 2


async def test_an_older_agent_is_replaced_and_a_removed_one_started_again(
    bots: BotContainers, agent: HostAgent, client: docker.DockerClient, tmp_path: Path
) -> None:
    before = await asyncio.to_thread(client.containers.get, NAME)
    await agent.keep_once()
    assert (await asyncio.to_thread(client.containers.get, NAME)).id == before.id
    await asyncio.to_thread(before.remove, force=True)
    labels = {"runtime.service": "guard", "runtime.revision": "0"}
    await asyncio.to_thread(
        client.containers.run, IMAGE, ["sleep", "600"], name=NAME, labels=labels, detach=True, network_mode="none"
    )

    async def is_current() -> bool:
        await agent.keep_once()
        found = await asyncio.to_thread(client.containers.get, NAME)
        return found.labels["runtime.revision"] != "0" and found.status == "running"

    await eventually(is_current)
