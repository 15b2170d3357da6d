"""A worker: a stream to the master that says which segment to own, and an owner that owns it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from libs.core.coordination import Assignment, WorkerIdentity, WorkerState
from libs.core.health import Readiness
from libs.core.lease import Holder
from libs.core.lease_keeper import LeaseTiming
from libs.core.log import get_logger
from libs.core.store.leases import LeaseStore
from libs.core.worker.handler import SegmentHandler
from libs.core.worker.segment_owner import SegmentOwner
from libs.core.worker.session import MasterSession, WorkerReplaced

log = get_logger(__name__)

DEPENDENCY = "segment"
"""The name under which readiness shows what is owned; without it the worker stands by, which is no failure."""


@dataclass(frozen=True)
class WorkerSnapshot:
    """What this worker knows about itself; dataclasses.asdict() of it is JSON."""

    worker_id: str
    instance_id: str
    host: str
    master_id: str | None
    """None while there is no master: what is owned goes on."""
    assigned: int | None
    held: int | None
    epoch: int | None
    proven_seconds: float | None
    running: int
    draining: bool
    impediment: str


class Worker:
    """One worker process of one service.

    Args:
        targets: addresses of masters, ``host:port``, tried in turn; usually one.
        timing: of the segment lease's renewals.
        impediment: why this worker cannot take a segment now, in words, such as an engine that does not answer; empty
            when it can. Asked for with each heartbeat.
        stop_grace_seconds: from SIGTERM to SIGKILL when a segment is given back.
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
        impediment: Callable[[], str] = lambda: "",
        heartbeat_interval_seconds: float = 2.0,
        stop_grace_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identity = identity
        self._handler = handler
        self._impediment = impediment
        self._readiness = readiness
        self._assignment: Assignment | None = None
        self._owner = SegmentOwner(
            leases,
            handler,
            Holder(identity.worker_id, identity.instance_id, identity.host, identity.started_at_milliseconds),
            timing,
            changed=self._changed,
            stop_grace_seconds=stop_grace_seconds,
            clock=clock,
        )
        self._session = MasterSession(
            identity,
            targets,
            state=self._state,
            assigned=self._assigned,
            readiness=readiness,
            heartbeat_interval_seconds=heartbeat_interval_seconds,
        )

    async def run(self) -> None:
        """Own what the master says, for ever. Cancelled, it leaves containers and lease to the next process.

        Raises:
            WorkerSuperseded, WorkerReplaced: another process runs under the same worker id; this one has to end.
        """
        owning = asyncio.create_task(self._owner.run(), name="own a segment")
        talking = asyncio.create_task(self._session.run(), name="talk to the master")
        try:
            await asyncio.wait([owning, talking], return_when=asyncio.FIRST_COMPLETED)
            if not owning.done() and isinstance(talking.exception(), WorkerReplaced):
                await self._make_way(talking, owning)
        finally:
            owning.cancel()
            talking.cancel()
            await asyncio.wait([owning, talking])
        for task in (owning, talking):
            if not task.cancelled():
                task.result()

    async def drain(self) -> None:
        """Take no segment any more; returns when the containers are stopped and the lease is released.

        To be called while run() goes on. Safe to repeat, and at once done when run() has ended.
        """
        await self._owner.drain()

    def poke(self, segment_id: int | None = None) -> None:
        """Something about *segment_id* (None: about whatever is owned) has changed: the handler should look now."""
        owned = self._owner.owned
        if owned is not None and segment_id in (None, owned.segment_id):
            owned.wake.set()

    @property
    def segment_id(self) -> int | None:
        """The segment that is owned now."""
        return self._owner.owned.segment_id if self._owner.owned is not None else None

    def owns(self, segment_id: int) -> bool:
        """Whether this worker owns *segment_id* now, and can prove it."""
        owned = self._owner.owned
        return owned is not None and owned.segment_id == segment_id and owned.proven()

    def snapshot(self) -> WorkerSnapshot:
        """What this worker knows now."""
        owned = self._owner.owned
        return WorkerSnapshot(
            worker_id=self._identity.worker_id,
            instance_id=self._identity.instance_id,
            host=self._identity.host,
            master_id=self._session.master_id,
            assigned=self._assignment.segment_id if self._assignment is not None else None,
            held=owned.segment_id if owned is not None else None,
            epoch=owned.epoch if owned is not None else None,
            proven_seconds=round(owned.proven_seconds(), 3) if owned is not None else None,
            running=self._handler.running(),
            draining=self._owner.draining,
            impediment=self._owner.impediment or self._impediment(),
        )

    async def _make_way(self, talking: "asyncio.Task[None]", owning: "asyncio.Task[None]") -> None:
        replaced = talking.exception()
        if isinstance(replaced, WorkerReplaced) and not replaced.same_host:
            # The other one cannot see our containers, and waits for the lease.
            draining = asyncio.create_task(self._owner.drain(), name="make way")
            await asyncio.wait([draining, owning], return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()

    def _state(self) -> WorkerState:
        return WorkerState(
            held=self._owner.held,
            running=self._handler.running(),
            draining=self._owner.draining,
            impediment=self._owner.impediment or self._impediment(),
        )

    def _assigned(self, assignment: Assignment) -> None:
        if assignment != self._assignment:
            log.info("assignment", segment=assignment.segment_id, reason=assignment.reason)
        self._assignment = assignment
        self._owner.want(assignment.segment_id, assignment.trace)

    def _changed(self) -> None:
        owned = self._owner.owned
        impediment = self._owner.impediment
        detail = impediment or (f"owns segment {owned.segment_id}" if owned is not None else "stands by")
        self._readiness.report(DEPENDENCY, not impediment, detail, required=False)
        self._session.report()
