"""A worker's view of its engine's room, read without waiting, and the entities of a segment that wait for room."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from libs.core.aio.wake import Wake
from libs.core.errors import Retryable, RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe
from libs.core.process.isolation import repeat
from libs.core.room import Need, Room
from libs.docker_runner.containers.container import ContainerState, Label, ManagedContainer
from libs.docker_runner.engine.answers import EngineInfo
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.engine.helper_container import GUARD_SERVICE
from libs.docker_runner.engine.room import Priority, Reservations, RoomRequest, RoomRules, Shortage

log = get_logger(__name__)

MANAGED: Mapping[str, str] = {Label.MANAGED: "true"}

REFRESH_SECONDS = 5.0
"""Interval of listing the containers without events."""
WAITING_CHECK_SECONDS = 1.0
"""The same while an entity waits for room."""
# The free room changes with each start of others; the shown text is updated at this rate.
REWRITE_SECONDS = 5.0
# A burst of events causes one refresh.
_GATHER_SECONDS = 0.1
# Such a container starts within seconds; an older one was left by a dead worker, and never runs.
_CREATED_COUNTS_SECONDS = 300.0
# The engine does not answer requests about a container that it is removing.
_INSPECT_SECONDS = 2.0


class EngineContainers(Protocol):
    """The source of the room; implemented by :class:`~libs.docker_runner.engine.client.Engine`."""

    async def info(self) -> EngineInfo:
        """Return the engine's capacity."""

    async def list(self, labels: Mapping[str, str], *, ended: bool = True) -> list[ManagedContainer]:
        """Return the containers with *labels*, those that have *ended* only on request."""

    async def limits(self, container: str) -> Need | None:
        """Return a container's limits; None when it is gone."""


class EngineRoom:
    """The reservations on one engine by all managed containers of any service, worker or deployment.

    :meth:`refresh` queries the engine; everything else returns the last result at once.

    Args:
        entity: the need of an entity without limits of its own.
    """

    def __init__(self, engine: EngineContainers, rules: RoomRules, entity: Need) -> None:
        self._engine = engine
        self._rules = rules
        self._entity = entity
        self._capacity: Need | None = None
        self._listed: Reservations | None = None
        self._expected: dict[str, Need] = {}
        self._expected_sum = Need()
        self._waiting: dict[str, tuple[RoomRequest, Wake]] = {}
        self._dead: set[str] = set()
        self._inspected: dict[str, Need] = {}
        self._happened = Wake()
        self._refreshes = 0
        self._listed_by = 0

    # --- reading

    def room(self, priority: Priority) -> Room | None:
        """Return the free room for a start of *priority*, less this worker's pending starts; None while unknown."""
        return self._listed.room(priority) if self._listed is not None else None

    def reservations(self) -> Reservations | None:
        """Return the reservations, including pending starts of this worker; None while unknown.

        They may be outdated: a start itself refreshes them.
        """
        if self._listed is None:
            return None
        return replace(self._listed, by_name={**self._expected, **self._listed.by_name})

    def shortage(self, request: RoomRequest) -> Shortage | None:
        """Return why *request* would be refused now, as far as known; None when it may be granted."""
        if self._listed is None or self._fits_easily(self._listed, request):
            return None
        reservations = self.reservations()
        return reservations.shortage(request) if reservations is not None else None

    def _fits_easily(self, listed: Reservations, request: RoomRequest) -> bool:
        """Whether it fits even if no expected container is listed yet: a thousand requests may come at once."""
        sums = replace(listed, by_name={"listed": listed.reserved, "expected": self._expected_sum})
        return sums.shortage(request) is None

    @property
    def waiting(self) -> int:
        """The number of entities of this worker that wait for room."""
        return len(self._waiting)

    # --- this worker's pending starts

    def expect(self, request: RoomRequest) -> None:
        """Count *request* as reserved until :meth:`settle`, also before its container exists."""
        self._drop(request.name)
        self._expected[request.name] = request.need
        self._expected_sum += request.need

    def settle(self, request: RoomRequest) -> None:
        """End the reservation of *request*: its start has ended, and only listed containers count. May be repeated."""
        if self._drop(request.name):
            self._wake_all()

    def grant(self, request: RoomRequest) -> None:
        """Count *request* as reserved until the next refresh, which lists its container: it is about to be created."""
        if self._listed is not None:
            self._listed = self._listed.granted(request)

    @contextmanager
    def expecting(self, request: RoomRequest) -> Iterator[None]:
        """Count *request* as reserved during the block; do nothing when it is counted already."""
        if request.name in self._expected:
            yield
            return
        self.expect(request)
        try:
            yield
        finally:
            self.settle(request)

    def wait(self, request: RoomRequest, wake: Wake) -> None:
        """Set *wake* whenever there is more room, until :meth:`leave`. May be repeated."""
        self._waiting[request.name] = (request, wake)

    def leave(self, name: str) -> None:
        """End the wait of the container *name*. May be repeated."""
        self._waiting.pop(name, None)

    @contextmanager
    def waiting_for(self, request: RoomRequest, wake: Wake) -> Iterator[None]:
        """As :meth:`wait`, during the block."""
        self.wait(request, wake)
        try:
            yield
        finally:
            self.leave(request.name)

    # --- refreshing

    def has(self, capacity: Need) -> None:
        """Set the engine's reported capacity."""
        self._capacity = capacity

    async def refresh(self) -> Reservations:
        """List the containers and return their reservations; wake the waiting entities when there is more room.

        Raises:
            EngineUnavailable: unknown.
        """
        self._refreshes = number = self._refreshes + 1
        if self._capacity is None:
            self._capacity = (await self._engine.info()).capacity
        containers = await self._engine.list(MANAGED, ended=False)
        counted = [container for container in containers if self._counts(container)]
        needs = await asyncio.gather(*(self._need(container) for container in counted))
        total = self._rules.total(self._capacity)
        by_name = {container.reservation: need for container, need in zip(counted, needs, strict=True)}
        users = frozenset(container.user for container in containers)
        users |= frozenset(container.query_user for container in containers if container.query_user is not None)
        found = Reservations(total, self._entity, self._rules.one_reserve(total, self._entity), by_name, users)
        if number > self._listed_by:
            self._listed_by = number
            self._forget_all_but({container.container_id for container in containers})
            before, self._listed = self._listed, found
            if before is None or _has_grown(before, found):
                self._wake_all()
        return found

    async def run(self) -> None:
        """Refresh the view forever: after each event, and at least every *REFRESH_SECONDS*."""

        async def one_round() -> float:
            try:
                with observe("containers", "look at room"):
                    await self.refresh()
            except Retryable as error:
                log.debug("room is unknown", reason=str(error))
            except RuntimeFault as error:
                log.warning("room is unknown", reason=str(error))
            await asyncio.sleep(_GATHER_SECONDS)
            return WAITING_CHECK_SECONDS if self._waiting else REFRESH_SECONDS

        await repeat("look at room", one_round, REFRESH_SECONDS, wake=self._happened)

    def note(self, event: ContainerEvent) -> None:
        """Apply *event*. The room of a dead container is free at once, while the engine still removes it."""
        if event.kind is EventKind.DIED:
            self._dead.add(event.container_id)
        elif event.kind is EventKind.STARTED:
            self._dead.discard(event.container_id)
        self._happened.set()

    def _drop(self, name: str) -> bool:
        need = self._expected.pop(name, None)
        if need is not None:
            self._expected_sum = sum(self._expected.values(), Need()) if need.cpus else self._expected_sum - need
        return need is not None

    def _wake_all(self) -> None:
        for _, wake in self._waiting.values():
            wake.set()

    def _forget_all_but(self, container_ids: set[str]) -> None:
        self._dead &= container_ids
        self._inspected = {known: need for known, need in self._inspected.items() if known in container_ids}

    def _counts(self, container: ManagedContainer) -> bool:
        if container.service == GUARD_SERVICE or container.container_id in self._dead:
            return False
        if container.state is ContainerState.CREATED and container.created_at is not None:
            return time.time() - container.created_at.timestamp() < _CREATED_COUNTS_SECONDS
        return container.state is not ContainerState.EXITED

    async def _need(self, container: ManagedContainer) -> Need:
        if container.limits is not None:
            return container.limits
        known = self._inspected.get(container.container_id)
        if known is not None:
            return known
        try:
            async with asyncio.timeout(_INSPECT_SECONDS):
                found = await self._engine.limits(container.container_id)
        except (RuntimeFault, TimeoutError) as error:
            log.debug("limits of a container are unknown", container=container.name, reason=str(error))
            return self._entity
        if found is None:
            return Need()
        need = Need(found.memory_bytes or self._entity.memory_bytes, found.cpus)
        self._inspected[container.container_id] = need
        return need


def waiting_detail(shortage: Shortage) -> str:
    """Return a sentence for the entity's owner about why it does not run yet."""
    return f"waiting: {shortage}"


@dataclass
class Wait:
    """The wait of one entity; *detail* is the text for its document, *written* the stored one."""

    request: RoomRequest
    since: datetime
    detail: str
    written_at: float
    written: str = ""

    def follow(self, shortage: Shortage, now: float) -> None:
        """Update *detail*, unless it was updated recently."""
        if now - self.written_at >= REWRITE_SECONDS:
            self.detail, self.written_at = waiting_detail(shortage), now


class WaitingForRoom:
    """The waits of one owned segment. *wake* is set whenever the engine has more room.

    Args:
        clock: in seconds; only differences count.
    """

    def __init__(self, room: EngineRoom, wake: Wake, clock: Callable[[], float] = time.monotonic) -> None:
        self._room = room
        self._wake = wake
        self._clock = clock
        self._waits: dict[str, Wait] = {}

    def __bool__(self) -> bool:
        return bool(self._waits)

    def __iter__(self) -> Iterator[tuple[str, Wait]]:
        return iter(self._waits.items())

    def become(self, shortages: Mapping[str, tuple[RoomRequest, Shortage]]) -> None:
        """Set the waiting entities, by their ids, and drop all others."""
        for gone in self._waits.keys() - shortages.keys():
            self._room.leave(self._waits.pop(gone).request.name)
        now = self._clock()
        for entity_id, (request, shortage) in shortages.items():
            wait = self._waits.get(entity_id)
            if wait is None or wait.request != request:
                wait = self._waits[entity_id] = Wait(request, datetime.now(UTC), waiting_detail(shortage), now)
            wait.follow(shortage, now)
            self._room.wait(request, self._wake)

    def needs(self) -> list[Need]:
        """The need of each of them."""
        return [wait.request.need for wait in self._waits.values()]


def _has_grown(before: Reservations, now: Reservations) -> bool:
    was, is_now = before.free(), now.free()
    return is_now.memory_bytes > was.memory_bytes or is_now.cpus > was.cpus + 1e-9 or not now.by_name
