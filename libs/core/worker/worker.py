"""A worker: a stream to the master that assigns segments, and one owner for each of them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from libs.core.coordination import Assignment, WorkerIdentity, WorkerState
from libs.core.http.health import Readiness
from libs.core.leases.boot_clock import boot_seconds
from libs.core.leases.lease import Holder
from libs.core.leases.lease_keeper import LeaseTiming
from libs.core.observability.log import get_logger
from libs.core.queries.messages import Answerer, Query, QueryAnswer, QueryFault, failed
from libs.core.room import Room
from libs.core.store.leases import LeaseStore
from libs.core.transport.security import TransportSecurity
from libs.core.transport.worker_key import WorkerKey
from libs.core.worker.handler import SegmentHandler
from libs.core.worker.neighbours import Neighbours
from libs.core.worker.segment_owners import SegmentOwners
from libs.core.worker.session import MasterSession, WorkerReplaced
from libs.core.worker.shared_folder import SharedFolder, boot_id

log = get_logger(__name__)

DEPENDENCY = "segment"
"""The name under which readiness shows the owned segments; a standby worker without any is ready."""


@dataclass(frozen=True)
class OwnedStatus:
    """One owned segment. *proven_seconds* is how much longer the lease is certainly held."""

    segment_id: int
    epoch: int
    proven_seconds: float


@dataclass(frozen=True)
class WorkerSnapshot:
    """What this worker knows about itself; dataclasses.asdict() of it is JSON."""

    worker_id: str
    instance_id: str
    host: str
    master_id: str | None
    """None without a master: owned segments continue."""
    assigned: Sequence[int]
    held: Sequence[OwnedStatus]
    running: int
    draining: bool
    impediment: str
    room: Room | None
    """The free room of the engine; None while unknown."""


@dataclass(frozen=True)
class EngineView:
    """The state of a worker's Docker engine, for reports. All but the last are called with each heartbeat and fast.

    Attributes:
        impediment: why no segment can be acquired now, such as an engine that does not answer; empty without one.
        lost: whether the engine has not answered for so long that its segments should move to another engine.
        room: the free room of the engine; None while unknown.
        can_adopt: whether containers that another worker of the engine started can be continued now.
        on_change: takes a function to call whenever the impediment has changed. Called once.
    """

    impediment: Callable[[], str] = lambda: ""
    lost: Callable[[], bool] = lambda: False
    room: Callable[[], Room | None] = lambda: None
    can_adopt: Callable[[], bool] = lambda: True
    on_change: Callable[[Callable[[], None]], None] = lambda listener: None


@dataclass(frozen=True)
class EngineFolders:
    """The folders by which the workers of one engine find each other.

    Attributes:
        shared: where each worker has a file of its own; on a disk or in the memory of this kernel.
        work: where this worker keeps logs and results; only workers with the same one take over from each other.
    """

    shared: Path
    work: Path


class Worker:
    """One worker process of one service.

    Args:
        targets: addresses of masters, ``host:port``, tried in turn; usually one.
        timing: of the segment leases' renewals.
        engine: the engine on which containers run.
        stop_grace_seconds: from SIGTERM to SIGKILL when a segment is released.
        security: what it proves to masters, and requires of them.
        folders: None when this worker takes over from no other one, and no other one from it.
        key: of the public key in *identity*.
        answerer: answers queries about owned segments; None for a worker that receives none.
    """

    def __init__(
        self,
        identity: WorkerIdentity,
        targets: Sequence[str],
        *,
        leases: LeaseStore,
        handler: SegmentHandler,
        timing: LeaseTiming,
        readiness: Readiness,
        engine: EngineView | None = None,
        heartbeat_interval_seconds: float = 2.0,
        stop_grace_seconds: float = 30.0,
        security: TransportSecurity | None = None,
        folders: EngineFolders | None = None,
        key: WorkerKey | None = None,
        answerer: Answerer | None = None,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self._identity = identity
        self._handler = handler
        self._engine = engine or EngineView()
        self._readiness = readiness
        self._assignment = Assignment()
        holder = Holder(
            identity.worker_id,
            identity.instance_id,
            identity.host,
            identity.started_at_milliseconds,
            boot_id() if folders is not None else "",
            identity.public_key,
        )
        self._owners = SegmentOwners(
            leases,
            handler,
            holder,
            timing,
            engine_lost=self._engine.lost,
            changed=self._changed,
            stop_grace_seconds=stop_grace_seconds,
            clock=clock,
        )
        self._neighbours = None
        if folders is not None:
            self._neighbours = Neighbours(
                SharedFolder(folders.shared, holder, folders.work),
                holder,
                leases,
                self._owners,
                may_take=lambda: self._engine.can_adopt() and not self._engine.lost(),
            )
        self._session = MasterSession(
            identity,
            targets,
            state=self._state,
            assigned=self._assigned,
            readiness=readiness,
            heartbeat_interval_seconds=heartbeat_interval_seconds,
            security=security,
            key=key,
            answerer=self._answer if answerer is not None else None,
        )
        self._answerer = answerer
        # Segments must not wait for the next heartbeat.
        self._engine.on_change(self._session.report)

    async def run(self) -> None:
        """Own the assigned segments, forever. If cancelled, leave containers and leases to the next process.

        Raises:
            WorkerSuperseded, WorkerReplaced: another process runs under the same worker id; this one has to end.
        """
        # Before the first lease: the death of this process can be proven from then on.
        watching = await self._watch_neighbours()
        owning = asyncio.create_task(self._owners.run(), name="own segments")
        talking = asyncio.create_task(self._session.run(), name="talk to the master")
        try:
            await asyncio.wait([owning, talking], return_when=asyncio.FIRST_COMPLETED)
            if not owning.done() and isinstance(talking.exception(), WorkerReplaced):
                await self._make_way(talking, owning)
        finally:
            keeps_leases = bool(self._owners.owned)
            for task in (owning, talking, *watching):
                task.cancel()
            await asyncio.wait([owning, talking, *watching])
            if self._neighbours is not None:
                self._neighbours.close(keeps_leases=keeps_leases)
        for task in (owning, talking):
            if not task.cancelled():
                task.result()

    async def drain(self) -> None:
        """Acquire no more segments; return when the containers are stopped and the leases are released.

        Call it while run() runs. May be repeated; returns at once when run() has ended.
        """
        await self._owners.drain()

    @property
    def segments(self) -> frozenset[int]:
        """The segments that are owned now."""
        return frozenset(self._owners.owned)

    def owns(self, segment_id: int) -> bool:
        """Return whether this worker owns *segment_id* now, and can prove it."""
        owned = self._owners.owned.get(segment_id)
        return owned is not None and owned.proven()

    def snapshot(self) -> WorkerSnapshot:
        """Return what this worker knows now."""
        return WorkerSnapshot(
            worker_id=self._identity.worker_id,
            instance_id=self._identity.instance_id,
            host=self._identity.host,
            master_id=self._session.master_id,
            assigned=sorted(self._assignment.segments),
            held=[
                OwnedStatus(owned.segment_id, owned.epoch, round(owned.proven_seconds(), 3))
                for owned in self._owners.owned.values()
            ],
            running=self._handler.running(),
            draining=self._owners.draining,
            impediment=self._impediment(),
            room=self._engine.room(),
        )

    async def _watch_neighbours(self) -> "list[asyncio.Task[None]]":
        if self._neighbours is None:
            return []
        await self._neighbours.open()
        self._owners.hand_over_to(self._neighbours)
        return [asyncio.create_task(self._neighbours.run(), name="watch neighbours")]

    async def _make_way(self, talking: "asyncio.Task[None]", owning: "asyncio.Task[None]") -> None:
        replaced = talking.exception()
        if isinstance(replaced, WorkerReplaced) and not replaced.same_host:
            # The other process cannot see the containers here, and waits for the leases.
            draining = asyncio.create_task(self._owners.drain(), name="drain segments")
            await asyncio.wait([draining, owning], return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()

    async def _answer(self, query: Query) -> QueryAnswer:
        if self._answerer is None or not self.owns(query.segment_id):
            return failed(QueryFault.MOVED, f"this worker does not own segment {query.segment_id} (any more)")
        return await self._answerer(query)

    def _impediment(self) -> str:
        return self._owners.impediment or self._engine.impediment()

    def _state(self) -> WorkerState:
        return WorkerState(
            held=self._owners.held,
            running=self._handler.running(),
            draining=self._owners.draining,
            impediment=self._impediment(),
            refused=self._owners.refused,
            room=self._engine.room(),
            engine_lost=self._engine.lost(),
        )

    def _assigned(self, assignment: Assignment) -> None:
        if assignment != self._assignment:
            log.info("assignment", segments=sorted(assignment.segments), reason=assignment.reason)
        self._assignment = assignment
        self._owners.want(assignment.segments, assignment.trace)

    def _changed(self) -> None:
        owned = sorted(self._owners.owned)
        impediment = self._owners.impediment
        listed = ", ".join(str(segment_id) for segment_id in owned)
        detail = impediment or (f"owns segment{'s' if len(owned) > 1 else ''} {listed}" if owned else "on standby")
        self._readiness.report(DEPENDENCY, not impediment, detail, required=False)
        self._session.report()
        if self._neighbours is not None:
            self._neighbours.changed()
