"""The segments that one worker owns: one owner each, started and stopped by the assignment."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from libs.core.aio.wake import Wake
from libs.core.coordination import HeldSegment
from libs.core.errors import RuntimeFault
from libs.core.leases.boot_clock import boot_seconds
from libs.core.leases.lease import Holder, Lease, LeaseView
from libs.core.leases.lease_keeper import LeaseTiming
from libs.core.observability.log import get_logger
from libs.core.observability.tracing import Headers
from libs.core.process.isolation import repeat, unexpected
from libs.core.room import Demand
from libs.core.store.leases import LeaseStore
from libs.core.worker.handler import OwnedSegment, SegmentHandler
from libs.core.worker.segment_owner import SegmentOwner, WorkerSuperseded

log = get_logger(__name__)

_STORE_PROBE_SECONDS = 2.0
"""As often as the master hears of it."""
_STORE_ANSWER_SECONDS = 1.0
_STORE_ATTEMPTS = 2
_REFUSAL_SECONDS = 5.0
_FAILED_OWNER_SECONDS = 1.0
_HEALTHY_SECONDS = 60.0
_UNCONFIRMED_SECONDS = 60.0
"""How long a segment that was taken over is kept without a master's consent: one of an older version needs a while."""


class LeaseTakers(Protocol):
    """The other workers of this engine."""

    async def leave(self) -> None:
        """Note that this worker ends. May be repeated."""

    async def exist(self) -> bool:
        """Return whether one of them could take a lease now."""

    async def hand_over(self, lease: Lease) -> bool:
        """Offer *lease* to them; return whether one has it now."""


class SegmentOwners:
    """Makes the owned segments match the assigned ones. A failure in one segment does not affect the others.

    Args:
        engine_lost: whether the engine has not answered for some seconds.
        changed: called when held or refused segments, the impediment or draining changed.
        stop_grace_seconds: from SIGTERM to SIGKILL when a segment is released.
    """

    def __init__(
        self,
        leases: LeaseStore,
        handler: SegmentHandler,
        holder: Holder,
        timing: LeaseTiming,
        *,
        engine_lost: Callable[[], bool] = lambda: False,
        changed: Callable[[], None] = lambda: None,
        stop_grace_seconds: float = 30.0,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self._leases = leases
        self._handler = handler
        self._holder = holder
        self._timing = timing
        self._engine_lost = engine_lost
        self._changed = changed
        self._stop_grace_seconds = stop_grace_seconds
        self._clock = clock
        self._wanted: frozenset[int] = frozenset()
        self._taken_over: dict[int, float] = {}
        self._takers: LeaseTakers | None = None
        self._owners: dict[int, SegmentOwner] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._refusals: dict[int, tuple[str, float]] = {}
        self._wake = Wake()
        self._running = False
        self._superseded: WorkerSuperseded | None = None
        self._at_rest = asyncio.Event()
        self.impediment = ""
        """Why no segment can be acquired now, for users; empty without a known reason."""
        self.draining = False
        """Whether drain() was called: nothing is acquired any more."""

    @property
    def engine_lost(self) -> bool:
        """See Environment."""
        return self._engine_lost()

    @property
    def owned(self) -> Mapping[int, OwnedSegment]:
        """The owned segments, by number."""
        return {
            segment_id: owner.owned for segment_id, owner in sorted(self._owners.items()) if owner.owned is not None
        }

    @property
    def held(self) -> tuple[HeldSegment, ...]:
        """The held leases, and what their segments need."""
        return tuple(
            HeldSegment(segment_id, owned.epoch, self._demand(segment_id), segment_id in self._taken_over)
            for segment_id, owned in self.owned.items()
        )

    @property
    def refused(self) -> Mapping[int, str]:
        """Segments that cannot be acquired here now, or could not recently, with the reason."""
        now = self._clock()
        self._refusals = {one: kept for one, kept in self._refusals.items() if kept[1] > now}
        current = {one: owner.refusal for one, owner in self._owners.items() if owner.refusal}
        return {one: reason for one, (reason, _) in self._refusals.items()} | current

    def want(self, segment_ids: Collection[int], trace: Headers | None = None) -> None:
        """Own exactly *segment_ids* from now on. Returns at once, and may be repeated.

        *trace* is that of the decision.
        """
        self._wanted = frozenset(segment_ids)
        now = self._clock()
        # Until it is assigned here: the assignment may have been decided before the takeover was known.
        self._taken_over = {
            one: since
            for one, since in self._taken_over.items()
            if one not in self._wanted and now - since < _UNCONFIRMED_SECONDS
        }
        self._follow(trace)

    def take_over(self, former: LeaseView) -> None:
        """Acquire the lease that another worker of the engine held as *former*, and keep the segment.

        Returns at once, and may be repeated.
        """
        segment_id = former.segment_id
        if self.draining or not self._running or (self.epoch_of(segment_id) or 0) > former.epoch:
            return
        if segment_id not in self._wanted:
            self._taken_over.setdefault(segment_id, self._clock())
        owner = self._owners.get(segment_id) or self._begin(segment_id)
        owner.take_over(former)
        self._follow(None)

    def epoch_of(self, segment_id: int) -> int | None:
        """Return the epoch under which the segment is owned now; None when it is not."""
        owner = self._owners.get(segment_id)
        return owner.owned.epoch if owner is not None and owner.owned is not None else None

    def hand_over_to(self, takers: LeaseTakers) -> None:
        """At the end of this worker, hand leases over to *takers* instead of stopping containers."""
        self._takers = takers

    async def drain(self) -> None:
        """Own nothing from now on; return when the containers are stopped and the leases are released or expired."""
        if not self.draining:
            self.draining = True
            if self._takers is not None and self._running:
                await self._takers.leave()
            self._follow(None)
            self._wake.set()
            self.changed()
        if self._running:
            await self._at_rest.wait()

    async def run(self) -> None:
        """Own the assigned segments, forever. If cancelled, leave containers and leases as they are.

        Raises:
            WorkerSuperseded: a newer process of this worker has a segment; nothing was stopped.
        """
        self._running = True
        probing = asyncio.create_task(
            repeat("probe the store", self._probe_store, _STORE_PROBE_SECONDS), name="probe the store"
        )
        try:
            self._follow(None)
            while True:
                if self._superseded is not None:
                    raise self._superseded
                if self.draining and not self._tasks:
                    self._at_rest.set()
                await self._wake.wait_at_most(None)
        finally:
            self._running = False
            probing.cancel()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.wait([probing, *self._tasks.values()])
            self._at_rest.set()

    # --- what owners report

    def changed(self) -> None:
        """See Environment."""
        self._changed()

    def store_answered(self, fault: str) -> None:
        """See Environment."""
        if fault != self.impediment:
            if fault:
                log.warning("this worker cannot take segments", reason=fault)
            self.impediment = fault
            self._wake.set()
            self.changed()

    def not_taken_over(self, segment_id: int) -> None:
        """See Environment."""
        if self._taken_over.pop(segment_id, None) is not None:
            self._follow(None)

    async def can_hand_over(self) -> bool:
        """See Environment."""
        return self.draining and self._takers is not None and not self.engine_lost and await self._takers.exist()

    async def hand_over(self, lease: Lease) -> bool:
        """See Environment."""
        return self._takers is not None and await self._takers.hand_over(lease)

    # --- inside

    def _demand(self, segment_id: int) -> Demand:
        # A heartbeat must not fail because of one segment: without heartbeats the worker loses all of them.
        try:
            return self._handler.demand(segment_id)
        except Exception as error:  # noqa: BLE001 - of this segment alone
            unexpected("read demand", error, segment=segment_id)
            return Demand()

    async def _probe_store(self) -> None:
        """Check whether segments can be acquired, before one is assigned here; the answer also shows MongoDB's clock.

        The second attempt uses another connection, so a single broken connection is no impediment.
        """
        for attempt in range(_STORE_ATTEMPTS):
            try:
                await self._leases.reachable(timeout_seconds=_STORE_ANSWER_SECONDS)
            except RuntimeFault as fault:
                if attempt == _STORE_ATTEMPTS - 1:
                    self.store_answered(str(fault))
            else:
                self.store_answered("")
                return

    def _follow(self, trace: Headers | None) -> None:
        """Start and stop owners to match the assignment."""
        if not self._running:
            return
        wanted = frozenset() if self.draining else self._wanted | self._taken_over.keys()
        for segment_id, owner in self._owners.items():
            if segment_id not in wanted:
                owner.give_back()
        for segment_id in sorted(wanted):
            owner = self._owners.get(segment_id) or self._begin(segment_id)
            owner.want(trace)
            if segment_id not in self._tasks:
                self._start(segment_id, owner)

    def _begin(self, segment_id: int) -> SegmentOwner:
        owner = self._owners[segment_id] = SegmentOwner(
            segment_id,
            self._leases,
            self._handler,
            self._holder,
            self._timing,
            self,
            stop_grace_seconds=self._stop_grace_seconds,
            clock=self._clock,
        )
        return owner

    def _start(self, segment_id: int, owner: SegmentOwner) -> None:
        task = asyncio.create_task(self._watched(owner), name=f"own segment {segment_id}")
        self._tasks[segment_id] = task
        task.add_done_callback(lambda _: self._ended(segment_id))

    async def _watched(self, owner: SegmentOwner) -> None:
        failures = 0
        while True:
            begun = self._clock()
            try:
                await owner.run()
            except WorkerSuperseded as superseded:
                self._superseded = superseded
            except Exception as error:  # noqa: BLE001 - of this segment alone; the owner runs again
                # The dead-man's switch ends the containers unless the lease is acquired again in time.
                unexpected("own segment", error, segment=owner.segment_id)
                failures = failures + 1 if self._clock() - begun < _HEALTHY_SECONDS else 1
                if failures > 1:
                    owner.refuse(f"unexpected error: {str(error) or type(error).__name__}")
                await asyncio.sleep(_FAILED_OWNER_SECONDS)
                continue
            return

    def _ended(self, segment_id: int) -> None:
        owner = self._owners.pop(segment_id)
        del self._tasks[segment_id]
        if owner.refusal:
            # Kept for a while, or the master would assign the segment here again at once.
            self._refusals[segment_id] = (owner.refusal, self._clock() + _REFUSAL_SECONDS)
        self._wake.set()
        if self._superseded is None:
            self._follow(None)
        self.changed()
