import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from libs.core.aio.wake import Wake
from libs.core.errors import Retryable
from libs.core.leases.boot_clock import boot_seconds
from libs.core.leases.lease import Holder, Lease
from libs.core.room import Demand
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.code.definition import CodeSources, ExecutableBuilder
from libs.docker_runner.containers.container import Ended, ManagedContainer
from libs.docker_runner.containers.container_group import ContainerGroup
from libs.docker_runner.containers.keepalive import KeepaliveFile, seconds_left
from libs.docker_runner.engine.container_watch import Listener
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.errors import StateUnsaved, StopFailed
from libs.docker_runner.executable import Entrypoint
from libs.docker_runner.settings import RunnerSettings
from libs.docker_runner.worker.handler import DockerSegmentHandler
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.rigs.deployed_bot import DeployedBot


class States:
    """As much of a `StateKeeper` as a handler needs."""

    def __init__(self) -> None:
        self.saved: list[str] = []
        self.fault: Exception | None = None

    def begin(self, segment: int, epoch: int) -> None:
        pass

    async def save(self, container: ManagedContainer) -> None:
        if self.fault is not None:
            raise self.fault
        self.saved.append(container.id)


class Host:
    """As much of a `DockerHost` as a handler needs, over containers that are only facts."""

    def __init__(self, folder: Path) -> None:
        self.containers = FakeHost(run_seconds=None)
        self.folder = folder
        self.logs = self
        self.states = States()
        self.calls: list[str] = []
        self.finished: list[str] = []
        self.listeners: list[Listener] = []
        self.woken: dict[int, Wake] = {}
        self.then: Callable[[], Awaitable[None]] | None = None
        self.ending: set[int] = set()
        self._keepalive = KeepaliveFile(folder)

    async def start(self) -> ManagedContainer:
        executables = ExecutableBuilder(
            settings=RunnerSettings(self.folder),
            service="s",
            scope="x",
            entrypoint=Entrypoint.BOT,
            code=CodeSources("bots"),
            segment=1,
            epoch=1,
            worker="w",
            keepalive=None,
        )
        return await self.containers.start(executables.build(DeployedBot("b")))

    async def keep_alive(self, segment: int, proven_until: float, epoch: int) -> None:
        self._keepalive.refresh(proven_until, epoch)

    async def end_by(self, segment: int, deadline: float, epoch: int) -> None:
        self.calls.append("end by")
        self._keepalive.end_by(deadline, epoch)

    async def expire(self, segment: int) -> None:
        self._keepalive.expire()

    def group(self, segment: int, epoch: int) -> ContainerGroup:
        runner: Any = self
        return ContainerGroup(runner, service="s", scope="x", segment=segment, epoch=epoch)

    async def list(self, service: str, scope: str, segment: int) -> Sequence[ManagedContainer]:
        return await self.containers.list()

    async def stop(self, container: ManagedContainer, grace_seconds: float) -> Ended:
        return await self.containers.stop(container, grace_seconds)

    async def remove(self, container: ManagedContainer) -> Ended:
        return await self.containers.remove(container)

    async def exit_info(self, container: ManagedContainer) -> Ended | None:
        return await self.containers.exit_info(container)

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        self.listeners.append(listener)
        try:
            yield
        finally:
            self.listeners.remove(listener)

    @asynccontextmanager
    async def waking(self, segment: int, wake: Wake) -> AsyncIterator[None]:
        self.woken[segment] = wake
        try:
            yield
        finally:
            del self.woken[segment]

    def begin(self, segment: int, epoch: int) -> None:
        self.calls.append("begin")

    def leave(self, segment: int) -> None:
        self.calls.append("leave")

    def drop(self, segment: int) -> None:
        self.calls.append("drop")

    def end_soon(self, segment: int) -> None:
        self.calls.append("end soon")

    async def release(self, segment: int) -> None:
        self.calls.append("release")

    async def read_rest(self, container: ManagedContainer) -> None:
        self.calls.append("read rest")

    def finish_later(
        self, segment: int, containers: Sequence[ManagedContainer], then: Callable[[], Awaitable[None]]
    ) -> None:
        self.calls.append("finish later")
        self.finished = [container.container_id for container in containers]
        self.then = then


class Away(Retryable):
    """The database does not answer."""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def handler(host: Host, recorded: list[Ended], fault: Exception | None = None) -> DockerSegmentHandler[Any]:
    async def at_rest(owned: OwnedSegment, ended: Sequence[Ended]) -> None:
        assert all(end.container.container_id in host.containers.containers for end in ended)
        recorded.extend(ended)
        if fault is not None:
            raise fault

    docker: Any = host
    work: Any = None
    return DockerSegmentHandler(docker, work=work, waking=host.waking, at_rest=at_rest)


def owned(proven_seconds: float = 60.0) -> OwnedSegment:
    return OwnedSegment(Lease(1, Holder("w", "i", "h"), 1, time.monotonic() + proven_seconds))


async def test_end_of_container_is_recorded_before_its_removal(host: Host) -> None:
    container = await host.start()
    recorded: list[Ended] = []

    await handler(host, recorded).stop_all(owned(), 1.0)

    assert [(end.exit_code, end.container.container_id) for end in recorded] == [(143, container.container_id)]
    assert host.calls == ["leave", "finish later"]
    assert host.finished == [container.container_id]
    assert list(host.containers.containers) == [container.container_id]
    assert host.then is not None
    await host.then()
    assert host.containers.containers == {}


async def test_last_state_is_saved_before_the_ends_are_recorded_and_the_segment_is_released(host: Host) -> None:
    await host.start()
    saved_when_recorded: list[list[str]] = []

    async def at_rest(_owned: OwnedSegment, _ended: Sequence[Ended]) -> None:
        saved_when_recorded.append(list(host.states.saved))

    docker: Any = host
    work: Any = None
    await DockerSegmentHandler(docker, work=work, waking=host.waking, at_rest=at_rest).stop_all(owned(), 1.0)

    assert saved_when_recorded == [["b"]]


async def test_segment_is_released_although_the_last_state_cannot_be_saved(host: Host) -> None:
    await host.start()
    host.states.fault = StateUnsaved("b", "the storage is away")
    recorded: list[Ended] = []

    await handler(host, recorded).stop_all(owned(), 1.0)

    assert [end.container.id for end in recorded] == ["b"]


async def test_a_container_whose_end_cannot_be_written_down_stays_for_the_next_owner(host: Host) -> None:
    container = await host.start()

    await handler(host, [], Away("away")).stop_all(owned(), 1.0)
    assert host.then is not None
    await host.then()

    assert list(host.containers.containers) == [container.container_id]
    assert host.containers.alive("b") == []


async def test_unexpected_error_about_an_end_keeps_no_segment_from_being_given_back(host: Host) -> None:
    container = await host.start()

    await handler(host, [], ValueError("broken document")).stop_all(owned(), 1.0)
    assert host.then is not None
    await host.then()

    assert list(host.containers.containers) == [container.container_id]
    assert host.containers.alive("b") == []


async def test_without_a_proven_lease_containers_are_ended_and_left(host: Host) -> None:
    await host.start()
    recorded: list[Ended] = []

    await handler(host, recorded).stop_all(owned(proven_seconds=-1.0), 0.0)

    assert host.containers.alive("b") == []
    assert len(host.containers.containers) == 1
    assert recorded == []
    assert host.calls == ["end soon"]


async def test_segment_left_to_a_neighbour_keeps_its_containers_and_its_keepalive(host: Host) -> None:
    container = await host.start()
    segment = owned()
    one = handler(host, [])
    await one.renewed(segment.lease)
    left_before = (host.folder / "lease").read_text()

    one.leave(segment)
    await one.renewed(segment.lease)

    assert host.calls == ["drop"]
    assert [found.container_id for found in host.containers.alive("b")] == [container.container_id]
    assert (host.folder / "lease").read_text() == left_before


async def test_a_renewal_lets_containers_live_and_the_end_lets_none_begin(host: Host) -> None:
    segment = owned()
    one = handler(host, [])

    await one.renewed(segment.lease)
    left_before = seconds_left(host.folder)
    await one.stop_all(segment, 0.0)

    assert left_before > 1.0
    assert seconds_left(host.folder) == 0.0


async def test_renewal_after_the_stop_lets_no_container_begin_under_that_ownership(host: Host) -> None:
    segment = owned()
    one = handler(host, [])
    await one.renewed(segment.lease)
    await one.stop_all(segment, 0.0)

    await one.renewed(segment.lease)
    left_after_stop = seconds_left(host.folder)
    await one.renewed(replace(segment.lease, epoch=2))

    assert left_after_stop == 0.0
    assert seconds_left(host.folder) > 1.0


async def test_failing_count_of_one_segment_keeps_counts_of_others(host: Host) -> None:
    class Work:
        running = 2

        def __init__(self, segment: OwnedSegment) -> None:
            self.segment_id = segment.segment_id

        async def run(self) -> None:
            await asyncio.Event().wait()

        def container_changed(self, entity_id: str) -> None: ...

        def states(self) -> dict[str, int]:
            if self.segment_id == 2:
                raise RuntimeError("the states cannot be read, as the test requires")
            return {"running": 1}

        def demand(self) -> Demand:
            return Demand()

    async def at_rest(owned: OwnedSegment, ended: Sequence[Ended]) -> None: ...

    docker: Any = host
    one = DockerSegmentHandler(docker, work=Work, waking=host.waking, at_rest=at_rest)
    async with asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(one.run(OwnedSegment(replace(owned().lease, segment_id=n)))) for n in (1, 2)]
        await eventually(lambda: len(one.works) == 2)

        states = one.states()

        for run in runs:
            run.cancel()
    assert states == {"running": 1}


@pytest.mark.parametrize(
    ("kind", "segment", "notified"),
    [
        (EventKind.DIED, 1, ["b"]),
        (EventKind.REMOVED, 1, ["b"]),
        (EventKind.OUT_OF_MEMORY, 1, ["b"]),
        (EventKind.RESYNC, -1, ["b"]),
        (EventKind.DIED, 2, []),
        (EventKind.STARTED, 1, []),
        (EventKind.KILLED, 1, []),
    ],
)
async def test_work_is_notified_of_ends_in_its_segment_from_its_first_step_to_its_end(
    host: Host, kind: EventKind, segment: int, notified: list[str]
) -> None:
    changed: list[str] = []
    before_first_step: list[list[Listener]] = []

    class Work:
        async def run(self) -> None:
            before_first_step.append(list(host.listeners))
            await asyncio.Event().wait()

        def container_changed(self, entity_id: str) -> None:
            changed.append(entity_id)

    async def at_rest(owned: OwnedSegment, ended: Sequence[Ended]) -> None: ...

    docker: Any = host
    made: Any = Work()
    one = DockerSegmentHandler(docker, work=lambda owned: made, waking=host.waking, at_rest=at_rest)
    running = asyncio.create_task(one.run(owned()))
    await eventually(lambda: before_first_step)
    [listener] = before_first_step[0]
    listener(ContainerEvent(kind, datetime.now(UTC), id="b", segment=segment))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert changed == notified
    assert host.listeners == []


async def test_wake_of_a_segment_is_set_while_its_work_runs(host: Host) -> None:
    during: list[dict[int, Wake]] = []

    class Work:
        async def run(self) -> None:
            during.append(dict(host.woken))
            await asyncio.Event().wait()

    async def at_rest(owned: OwnedSegment, ended: Sequence[Ended]) -> None: ...

    docker: Any = host
    made: Any = Work()
    one = DockerSegmentHandler(docker, work=lambda owned: made, waking=host.waking, at_rest=at_rest)
    segment = owned()
    running = asyncio.create_task(one.run(segment))
    await eventually(lambda: during)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert during == [{1: segment.wake}]
    assert host.woken == {}


class Promises:
    """What later owners see of last deadlines, with the time by which each was recorded."""

    def __init__(self, host: Host, *, covered: bool = True, fault: Exception | None = None) -> None:
        self.host = host
        self.covered = covered
        self.fault = fault
        self.recorded: list[float] = []
        self.asked: list[list[str]] = []
        self.ended: list[Ended] = []
        self.end_faults: list[Exception] = []

    async def promise_ends(self, seconds: float) -> None:
        self.host.calls.append("promise")
        if self.fault is not None:
            raise self.fault
        self.recorded.append(boot_seconds() + seconds)

    async def has_promised(self, alive: Collection[str]) -> bool:
        self.asked.append(list(alive))
        return self.covered

    async def container_ended(self, ended: Ended) -> None:
        if self.end_faults:
            raise self.end_faults.pop(0)
        assert ended.container.container_id in self.host.containers.containers
        self.ended.append(ended)


def promising(host: Host, promises: Promises) -> DockerSegmentHandler[Any]:
    async def at_rest(owned: OwnedSegment, ended: Sequence[Ended]) -> None: ...

    docker: Any = host
    work: Any = None
    return DockerSegmentHandler(docker, work=work, waking=host.waking, at_rest=at_rest, promises=lambda owned: promises)


def last_deadline(host: Host) -> float:
    *_, deadline, _, _, form = (host.folder / "lease").read_text().split()
    assert form == "final"
    return float(deadline)


async def test_containers_end_before_the_deadline_that_later_owners_see(host: Host) -> None:
    container = await host.start()
    promises = Promises(host)

    seconds = await promising(host, promises).promise_ends(owned(), 30.0)

    assert seconds == 31.0
    assert host.calls == ["leave", "promise", "end by", "release"]
    [recorded] = promises.recorded
    assert recorded - 5.0 < last_deadline(host) < recorded
    assert promises.asked == [[container.run_id]]


async def test_renewal_after_a_promise_extends_nothing(host: Host) -> None:
    segment, promises = owned(), Promises(host)
    one = promising(host, promises)
    await one.promise_ends(segment, 30.0)
    before = (host.folder / "lease").read_text()

    await one.renewed(segment.lease)
    await host.keep_alive(1, segment.lease.proven_until, segment.epoch)
    assert (host.folder / "lease").read_text() == before

    await one.renewed(replace(segment.lease, epoch=2))
    assert (host.folder / "lease").read_text() != before


async def test_container_without_a_record_ends_at_once_and_nothing_is_promised(host: Host) -> None:
    await host.start()
    segment = owned()
    one = promising(host, Promises(host, covered=False))

    assert await one.promise_ends(segment, 30.0) is None
    assert seconds_left(host.folder) == 0.0

    await one.stop_all(segment, 1.0)
    assert host.calls[-1] == "finish later"
    assert "read rest" not in host.calls


async def test_promise_that_cannot_be_recorded_leaves_the_keepalive_to_the_lease(host: Host) -> None:
    segment = owned()
    one = promising(host, Promises(host, fault=Away("away")))

    with pytest.raises(Away):
        await one.promise_ends(segment, 30.0)
    await one.renewed(segment.lease)

    assert len((host.folder / "lease").read_text().split()) == 4


async def test_nothing_is_promised_without_a_proven_lease_or_a_record_of_promises(host: Host) -> None:
    assert await promising(host, Promises(host)).promise_ends(owned(proven_seconds=0.1), 30.0) is None
    assert await handler(host, []).promise_ends(owned(), 30.0) is None
    assert host.calls == []


async def test_promised_containers_are_stopped_and_recorded_one_by_one_after_the_lease_is_gone(host: Host) -> None:
    container = await host.start()
    segment, promises = owned(), Promises(host)
    one = promising(host, promises)
    await one.promise_ends(segment, 30.0)
    segment.lease = replace(segment.lease, proven_until=0.0)

    await one.stop_all(segment, 1.0)

    assert [end.container.container_id for end in promises.ended] == [container.container_id]
    assert host.calls[-2:] == ["read rest", "finish later"]
    assert last_deadline(host) > 0
    assert host.ending == set()
    assert host.then is not None
    await host.then()
    assert host.containers.containers == {}


async def test_end_of_a_promised_container_that_is_not_recorded_is_recorded_by_the_next_call(host: Host) -> None:
    await host.start()
    segment, promises = owned(), Promises(host)
    promises.end_faults = [Away("away")]
    one = promising(host, promises)
    await one.promise_ends(segment, 30.0)

    with pytest.raises(StopFailed):
        await one.stop_all(segment, 1.0)
    assert host.ending == set()
    await one.stop_all(segment, 1.0)

    assert len(promises.ended) == 1


async def test_later_ownership_of_the_same_segment_has_promised_nothing(host: Host) -> None:
    await host.start()
    segment, promises = owned(), Promises(host)
    one = promising(host, promises)
    await one.promise_ends(segment, 30.0)

    await one.stop_all(OwnedSegment(replace(segment.lease, epoch=2)), 1.0)

    assert promises.ended == []
    assert host.calls[-1] == "finish later"
