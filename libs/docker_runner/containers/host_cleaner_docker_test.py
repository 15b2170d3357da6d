"""Dead containers of segments that have moved go soon, with their ends recorded; those that an owner counts stay."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest
import pytest_asyncio

from libs.core.errors import Retryable
from libs.core.leases.boot_clock import boot_seconds
from libs.core.leases.lease import Holder, LeaseView
from libs.core.run_record import RunRecord
from libs.docker_runner.containers.container import ContainerState, EndReason, ManagedContainer
from libs.docker_runner.containers.host_cleaner import HostCleaner
from libs.docker_runner.containers.keepalive import KeepaliveFile
from libs.docker_runner.containers.run_records import Recorder
from libs.docker_runner.executable import Network
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tools.engine.ensure import Engine

FOREVER = "import time\ndef main(id, config):\n while True: time.sleep(1)"
HERE = "this host"


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.NONE) as bots:
        yield bots


@dataclass
class Records:
    """A history in memory; *away* is raised by each end to be recorded, as long as it is set."""

    ended: list[RunRecord] = field(default_factory=list)
    away: Exception | None = None

    async def get(self, run_id: str) -> RunRecord | None:
        return None

    async def finish(self, record: RunRecord) -> bool:
        if self.away is not None:
            raise self.away
        self.ended.append(record)
        return True


@dataclass
class Logs:
    """The output of the containers that are followed."""

    followed: set[str] = field(default_factory=set)
    finished: list[str] = field(default_factory=list)

    @property
    def following(self) -> "Logs":
        return self

    def is_following(self, container: ManagedContainer) -> bool:
        return container.container_id in self.followed

    async def finish(self, container: ManagedContainer) -> bool:
        self.finished.append(container.container_id)
        return True

    async def clean(self, live: Sequence[str]) -> int:
        return 0


class Code:
    """A cache that is small enough."""

    async def evict(self) -> None:
        """Nothing has to go."""


class Worker:
    """One worker of the engine, which owns no segment any more."""

    def __init__(self, bots: BotContainers, folder: Path, *, clear_seconds: float = 300.0) -> None:
        self.records, self.logs = Records(), Logs()
        self.leases: list[LeaseView] = []
        self.owned: set[int] = set()
        self._bots = bots
        code: Any = Code()
        logs: Any = self.logs

        async def leases() -> Sequence[LeaseView]:
            return self.leases

        self.cleaner = HostCleaner(
            bots.runner,
            service="bot-runner",
            scope=bots.scope,
            owns=lambda segment: segment in self.owned,
            leases=leases,
            history=self.records,
            recorder=Recorder("w", HERE),
            code=code,
            logs=logs,
            keepalives=folder / "keepalive" / "place",
            former=[],
            clear_seconds=clear_seconds,
        )

    def moves_to(self, host: str, segment: int = 1) -> None:
        """The segment is owned by a worker on *host* from now on."""
        self.leases = [LeaseView(segment, Holder("other", "i", host), 2, 5.0)]

    async def run(self) -> None:
        """Clean for ever, and heed the engine's events."""
        await asyncio.gather(self._bots.runner.watch.run(), self.cleaner.run())


@pytest_asyncio.fixture(loop_scope="session")
async def worker(bots: BotContainers, tmp_path: Path) -> AsyncIterator[Worker]:
    one = Worker(bots, tmp_path)
    running = asyncio.create_task(one.run())
    yield one
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def lapsed(bots: BotContainers, folder: Path, bot_id: str = "b1", segment: int = 1) -> ManagedContainer:
    """A container that its own switch has ended."""
    keepalive = KeepaliveFile(folder / f"of {bot_id}")
    keepalive.refresh(time.monotonic() + 60.0)
    started = bots.executable(FOREVER, bot_id, keepalive=keepalive.folder, segment=segment, run_id=f"run {bot_id}")
    container = await bots.runner.start(started)
    keepalive.expire()

    async def over() -> bool:
        found = await bots.runner.inspect(container)
        return found is None or found.state is ContainerState.EXITED

    await eventually(over)
    return container


async def test_a_container_that_ended_here_goes_as_soon_as_its_segment_is_owned_elsewhere(
    bots: BotContainers, worker: Worker, tmp_path: Path
) -> None:
    container = await lapsed(bots, tmp_path)
    worker.logs.followed.add(container.container_id)
    assert await bots.list()

    worker.moves_to("another host")

    await eventually(lambda: is_empty(bots), within_seconds=30)
    [record] = worker.records.ended
    assert (record.run_id, record.reason, record.exit_code) == ("run b1", "lease-lost", 75)
    assert worker.logs.finished == [container.container_id]


async def test_a_container_that_was_created_and_never_started_goes_without_an_event(
    bots: BotContainers, tmp_path: Path, docker_engine: Engine
) -> None:
    worker = Worker(bots, tmp_path, clear_seconds=0.5)
    worker.moves_to("another host")
    running = asyncio.create_task(worker.run())
    try:
        client = docker.DockerClient(base_url=docker_engine.url)
        dead = await lapsed(bots, tmp_path)
        await eventually(lambda: is_empty(bots), within_seconds=30)
        labels = {"runtime.managed": "true", "runtime.id": dead.id, "runtime.service": "bot-runner"}
        labels |= {"runtime.scope": bots.scope, "runtime.segment": "1", "runtime.run-id": "run late"}
        client.containers.create("python:3.11-slim", labels=labels)
        client.close()

        await eventually(lambda: is_empty(bots), within_seconds=60)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def is_empty(bots: BotContainers) -> bool:
    return await bots.list() == []


@pytest.mark.parametrize("owner", [HERE, None, "this worker"])
async def test_a_container_that_its_next_owner_may_count_stays(
    bots: BotContainers, worker: Worker, tmp_path: Path, owner: str | None
) -> None:
    if owner == "this worker":
        worker.owned.add(1)
    elif owner is not None:
        worker.moves_to(owner)
    kept = await lapsed(bots, tmp_path)

    # One of a segment that has moved shows that the cleaner has looked.
    worker.leases.append(LeaseView(2, Holder("other", "i", "another host"), 2, 5.0))
    await lapsed(bots, tmp_path, "b2", segment=2)

    async def only_kept() -> bool:
        return [one.container_id for one in await bots.list()] == [kept.container_id]

    await eventually(only_kept)
    assert [record.run_id for record in worker.records.ended] == ["run b2"]


@pytest.mark.parametrize("error", [Retryable("away"), OSError(5, "Input/output error")], ids=["away", "unexpected"])
async def test_a_container_whose_end_cannot_be_recorded_stays_until_it_can(
    bots: BotContainers, worker: Worker, tmp_path: Path, error: Exception
) -> None:
    worker.records.away = error
    worker.moves_to("another host")
    container = await lapsed(bots, tmp_path)
    worker.logs.followed.add(container.container_id)
    await eventually(lambda: worker.logs.finished)
    assert await bots.list()

    worker.records.away = None

    await eventually(lambda: is_empty(bots))
    assert [record.run_id for record in worker.records.ended] == ["run b1"]


async def running(bots: BotContainers, folder: Path, segment: int = 1) -> tuple[KeepaliveFile, ManagedContainer]:
    """A container that watches a keepalive in the folder of its deployment, and runs."""
    keepalive = KeepaliveFile(folder / "keepalive" / "place" / str(segment))
    keepalive.refresh(boot_seconds() + 5.0)
    executable = bots.executable(FOREVER, f"b{segment}", keepalive=keepalive.folder, segment=segment, run_id="run")
    return keepalive, await bots.runner.start(executable)


async def test_paused_container_that_outlives_its_keepalive_is_killed_by_a_worker_that_does_not_own_it(
    bots: BotContainers, worker: Worker, tmp_path: Path, docker_engine: Engine
) -> None:
    keepalive, container = await running(bots, tmp_path)
    client = docker.DockerClient(docker_engine.url)
    try:
        paused = await asyncio.to_thread(client.containers.get, container.container_id)
        await asyncio.to_thread(paused.pause)
        keepalive.expire()

        async def has_ended() -> bool:
            await asyncio.to_thread(paused.reload)
            return str(paused.status) == "exited"

        await eventually(has_ended)
    finally:
        client.close()
    ended = await bots.runner.exit_info(container)
    assert ended is not None
    assert (ended.reason, ended.container.exit_code) == (EndReason.LEASE_LOST, 137)


async def test_container_whose_keepalive_is_refreshed_is_left_alone_by_workers_that_do_not_own_it(
    bots: BotContainers, worker: Worker, tmp_path: Path
) -> None:
    keepalive, container = await running(bots, tmp_path)
    other, lost = await running(bots, tmp_path, segment=2)
    other.expire()

    async def only_the_other_has_ended() -> bool:
        await asyncio.to_thread(keepalive.refresh, boot_seconds() + 5.0)
        found = await bots.runner.inspect(lost)
        return found is None or found.state is ContainerState.EXITED

    await eventually(only_the_other_has_ended)
    for _ in range(30):  # several checks
        await asyncio.to_thread(keepalive.refresh, boot_seconds() + 5.0)
        await asyncio.sleep(0.1)
    found = await bots.runner.inspect(container)
    assert found is not None
    assert found.state is ContainerState.RUNNING
