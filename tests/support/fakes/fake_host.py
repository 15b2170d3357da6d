"""A simulated Docker host without real containers."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from libs.core.room import Need
from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, ManagedContainer
from libs.docker_runner.containers.endings import LEASE_LOST_EXIT_CODE
from libs.docker_runner.containers.names import standby_name
from libs.docker_runner.engine.answers import EngineInfo
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.engine.room import RoomRequest, RoomRules
from libs.docker_runner.engine.room_view import EngineRoom
from libs.docker_runner.errors import NoRoom
from libs.docker_runner.executable import Executable, Limits
from tests.support.eventually import eventually

PARALLEL_STARTS = 8
_REASONS: dict[int | None, EndReason] = {0: EndReason.FINISHED, LEASE_LOST_EXIT_CODE: EndReason.LEASE_LOST}


@dataclass(frozen=True)
class Start:
    """A start request to a host, at *at* by the machine's clock."""

    entity_id: str
    run_id: str
    at: float


@dataclass
class FakeHost:
    """A Docker host. A run takes *run_seconds*, or has no limit when that is None, and ends with an exit code.

    Args:
        exit_codes: of the following runs, in order; 0 when there are none left.
        last_stays: after the exit codes, runs do not end.
        hang_before: a start request never returns, and creates no container.
        hang_after: a start creates its container, and never returns.
        faults: raised by the following starts, in order.
        faults_after: the same, by starts that create their containers.
        away: raised by every listing of the containers.
        stale_lists: how many of the following listings show running containers as ended.
        capacity: the total of the containers' limits; None: unlimited.
        logs_are_stored: whether output is uploaded when asked.
        stubborn: containers do not end on SIGTERM, so a graceful stop lasts until they are killed.
        graces: grace period in seconds of each stop of a running container, by entity.
        code_faults: raised by the checks and starts of the code of a key.
        hang_checks: checks never return.
        hang_standbys: standbys are never ready.
        step: makes each of the two writes by which a standby is let go.
    """

    name: str = "host"
    run_seconds: float | None = 0.02
    exit_codes: list[int] = field(default_factory=list)
    last_stays: bool = False
    hang_before: bool = False
    hang_after: bool = False
    faults: list[Exception] = field(default_factory=list)
    faults_after: list[Exception] = field(default_factory=list)
    away: Exception | None = None
    stale_lists: int = 0
    stubborn: bool = False
    graces: dict[str, list[float]] = field(default_factory=dict)
    code_faults: dict[str, Exception] = field(default_factory=dict)
    hang_checks: bool = False
    hang_standbys: bool = False
    standbys: dict[str, ManagedContainer] = field(default_factory=dict)
    let_go: list[str] = field(default_factory=list)
    step: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]] = lambda write: write()
    checks_under_way: int = 0
    starts: list[Start] = field(default_factory=list)
    containers: dict[str, ManagedContainer] = field(default_factory=dict)
    stopped: dict[str, EndReason] = field(default_factory=dict)
    changed: Callable[[str], None] = lambda entity_id: None
    parallel: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARALLEL_STARTS))
    made: Callable[[ManagedContainer], None] = lambda container: None
    capacity: Need | None = None
    logs_are_stored: bool = True
    room: EngineRoom = field(init=False)

    def __post_init__(self) -> None:
        """The room left by its containers."""
        self.room = room_of(self)

    async def check(self, executable: Executable) -> str:
        """As the docker runner."""
        await asyncio.sleep(0)
        if self.hang_checks:
            self.checks_under_way += 1
            await asyncio.Event().wait()
        fault = self.code_faults.get(executable.code.key)
        if fault is not None:
            raise fault
        return executable.code_etag or "etag"

    async def stand_by(self, executable: Executable) -> None:
        """As the docker runner."""
        await self.check(executable)
        if self.hang_standbys:
            await asyncio.Event().wait()
        await check_room(self, replace(executable.room, name=standby_name(executable.name)))
        waiting = replace(container_of(executable), was_standby=True, is_standby=True)
        for other in [one for one in self.standbys.values() if one.id == executable.id]:
            del self.standbys[other.container_id]
        self.standbys[waiting.container_id] = waiting

    async def drop_standby(self, executable: Executable) -> None:
        """As the docker runner."""
        await asyncio.sleep(0)
        self.standbys.pop(f"c-{executable.run_id}", None)

    async def remove_standbys(self, before_epoch: int) -> None:
        """As the docker runner."""
        await asyncio.sleep(0)
        self.standbys = {known: one for known, one in self.standbys.items() if one.epoch >= before_epoch}

    async def _let_go(self, waiting: ManagedContainer) -> ManagedContainer | None:
        async def rename() -> None:
            del self.standbys[waiting.container_id]
            if not any(one.id == waiting.id for one in self.containers.values()):
                renamed = replace(waiting, is_standby=False, state=ContainerState.CREATED)
                self.containers[waiting.container_id] = renamed

        async def go() -> None:
            if (known := self.containers.get(waiting.container_id)) is not None:
                running = replace(known, state=ContainerState.RUNNING, started_at=datetime.now(UTC))
                self.containers[waiting.container_id] = running
                self.let_go.append(waiting.run_id)
                self.made(running)

        await self.step(rename)
        if waiting.container_id not in self.containers:
            return None
        await self.step(go)
        return self.containers.get(waiting.container_id)

    async def start(self, executable: Executable) -> ManagedContainer:
        """As the docker runner."""
        self.starts.append(Start(executable.id, executable.run_id, time.time()))
        await asyncio.sleep(0)
        async with self.parallel:
            await asyncio.sleep(0)
            return await self._start(executable)

    async def _start(self, executable: Executable) -> ManagedContainer:
        await self.check(executable)
        if self.faults:
            raise self.faults.pop(0)
        if self.hang_before:
            await asyncio.Event().wait()
        waiting = self.standbys.get(f"c-{executable.run_id}")
        if waiting is not None and (container := await self._let_go(waiting)) is not None:
            return container
        for container in self.containers.values():
            if container.id == executable.id and container.state is ContainerState.RUNNING:
                return container
        await check_room(self, executable.room)
        container = container_of(executable)
        self.containers[container.container_id] = container
        self.made(container)
        if self.run_seconds is not None and (self.exit_codes or not self.last_stays):
            code = self.exit_codes.pop(0) if self.exit_codes else 0
            asyncio.get_running_loop().call_later(self.run_seconds, self.end, container.container_id, code)
        if self.hang_after:
            await asyncio.Event().wait()
        if self.faults_after:
            raise self.faults_after.pop(0)
        return container

    async def stop(
        self, container: ManagedContainer, grace_seconds: float = 30.0, reason: EndReason = EndReason.STOPPED
    ) -> Ended:
        """As the docker runner."""
        await asyncio.sleep(0)
        known = self.containers.get(container.container_id)
        if known is not None and known.state is ContainerState.CREATED:
            del self.containers[container.container_id]
        if known is not None and known.state is ContainerState.RUNNING:
            self.stopped[container.container_id] = reason
            self.graces.setdefault(container.id, []).append(grace_seconds)
            if self.stubborn and grace_seconds >= 1:
                await eventually(lambda: not self._runs(container), grace_seconds)
            self.end(container.container_id, 143)
        return self._ended(container)

    async def exit_info(self, container: ManagedContainer) -> Ended | None:
        """As the docker runner."""
        await asyncio.sleep(0)
        if self._runs(container):
            return None
        known = self.containers.get(container.container_id)
        if known is not None and known.state is ContainerState.CREATED:
            self.stopped[container.container_id] = EndReason.STOPPED
            ended = self._ended(container)
            del self.containers[container.container_id]
            return ended
        return self._ended(container)

    async def remove(self, container: ManagedContainer) -> Ended:
        """As the docker runner."""
        await asyncio.sleep(0)
        ended = self._ended(container)
        self.containers.pop(container.container_id, None)
        return ended

    async def inspect(self, container: ManagedContainer) -> ManagedContainer | None:
        """As the docker runner."""
        await asyncio.sleep(0)
        return self.containers.get(container.container_id)

    async def list(self) -> list[ManagedContainer]:
        """As a container group, without times."""
        await asyncio.sleep(0)
        if self.away is not None:
            raise self.away
        listed = [replace(container, started_at=None, finished_at=None) for container in self.containers.values()]
        if self.stale_lists:
            self.stale_lists -= 1
            return [replace(container, state=ContainerState.EXITED) for container in listed]
        return listed

    def follow(self, container: ManagedContainer) -> None:
        """As the log pipeline."""

    async def finish(self, container: ManagedContainer) -> bool:
        """As the log pipeline."""
        return True

    async def stored(self, entity_id: str, limit_seconds: float) -> bool:
        """As the log pipeline."""
        return self.logs_are_stored

    def end(self, container_id: str, code: int = 0) -> None:
        """End the container's process."""
        container = self.containers.get(container_id)
        if container is not None and container.state is ContainerState.RUNNING:
            self.containers[container_id] = replace(
                container, state=ContainerState.EXITED, exit_code=code, finished_at=datetime.now(UTC)
            )
            self.room.note(ContainerEvent(EventKind.DIED, datetime.now(UTC), container_id=container_id))
            self.changed(container.id)

    def alive(self, entity_id: str) -> Sequence[ManagedContainer]:
        """The running containers of one entity."""
        running = (c for c in self.containers.values() if c.state is ContainerState.RUNNING)
        return [container for container in running if container.id == entity_id]

    def die(self) -> None:
        """End all containers, as by their dead-man's switches."""
        for container_id in list(self.containers):
            self.end(container_id, LEASE_LOST_EXIT_CODE)

    def reason_of(self, container: ManagedContainer) -> EndReason:
        """Return the end reason of *container*, which ended without a stop."""
        return _REASONS.get(container.exit_code, EndReason.ERROR)

    def collecting(
        self,
        container: ManagedContainer,
        result_bytes: int,
        timeout_seconds: float,
        is_handed_over: Callable[[], bool] = lambda: False,
    ) -> AbstractAsyncContextManager[Any]:
        """As the docker runner, for services that collect results."""
        raise NotImplementedError

    def _runs(self, container: ManagedContainer) -> bool:
        known = self.containers.get(container.container_id)
        return known is not None and known.state is ContainerState.RUNNING

    def _ended(self, container: ManagedContainer) -> Ended:
        known = self.containers.get(container.container_id, container)
        if container.container_id not in self.containers:
            return Ended(container, None, False, EndReason.MISSING, None, None)
        reason = self.stopped.get(container.container_id) or self.reason_of(known)
        return Ended(known, known.exit_code, False, reason, known.started_at, known.finished_at)


class HasContainers(Protocol):
    """The containers, and the total of their limits."""

    containers: dict[str, ManagedContainer]
    capacity: Need | None
    room: EngineRoom


class _Engine:
    """The part of an engine that its room needs."""

    def __init__(self, host: HasContainers) -> None:
        self._host = host

    async def info(self) -> EngineInfo:
        return EngineInfo("", "", (), self._host.capacity or Need(2**60, 2.0**20))

    async def list(self, labels: Mapping[str, str], *, ended: bool = True) -> list[ManagedContainer]:
        containers = [*self._host.containers.values(), *getattr(self._host, "standbys", {}).values()]
        return [c for c in containers if ended or c.state is not ContainerState.EXITED]

    async def limits(self, container: str) -> Need | None:
        return None


def room_of(host: HasContainers) -> EngineRoom:
    """Return the room left by *host*, without overcommitment and reserves."""
    rules = RoomRules(memory_overcommit=1.0, cpu_overcommit=1.0, reserve=0.0)
    return EngineRoom(_Engine(host), rules, Limits().need)


@asynccontextmanager
async def looking(host: HasContainers) -> AsyncIterator[EngineRoom]:
    """Follow the room of *host* during the block, like a worker."""
    following = asyncio.create_task(host.room.run(), name="room")
    try:
        yield host.room
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def check_room(host: HasContainers, request: RoomRequest) -> None:
    """Raise if *host* has a limit and no room for *request*."""
    if host.capacity is not None:
        shortage = (await host.room.refresh()).shortage(request)
        if shortage is not None:
            raise NoRoom(request.name, shortage)
        host.room.grant(request)


def container_of(executable: Executable) -> ManagedContainer:
    """Return the running container that the docker runner would create for *executable*."""
    return ManagedContainer(
        container_id=f"c-{executable.run_id}",
        name=executable.room.name,
        id=executable.id,
        service=executable.service,
        scope=executable.scope,
        entrypoint=executable.entrypoint,
        segment=executable.segment,
        spec_hash=executable.spec_hash(),
        code_etag="etag",
        revision=executable.revision,
        run_id=executable.run_id,
        epoch=executable.epoch,
        worker=executable.worker,
        token="t",
        started_at=datetime.now(UTC),
        limits=executable.limits.need,
        restart=executable.restart,
    )
