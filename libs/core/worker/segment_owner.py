"""Owning one segment: acquire its lease, run the handler under it, and leave the host at rest before the lease ends."""

import asyncio
import time
from collections.abc import Callable

from prometheus_client import Counter

from libs.core.backoff import Backoff
from libs.core.coordination import HeldSegment
from libs.core.errors import RuntimeFault, UserError
from libs.core.lease import Holder, Lease, LeaseHeld, SegmentMissing
from libs.core.lease_keeper import Lapse, LeaseKeeper, LeaseTiming
from libs.core.log import get_logger
from libs.core.store.client import StoreUnavailable
from libs.core.store.leases import LeaseStore
from libs.core.tracing import Headers, span
from libs.core.wake import Wake
from libs.core.worker.handler import OwnedSegment, SegmentHandler
from libs.core.worker.supervised import HandlerRun, stop_until_done

log = get_logger(__name__)

ACQUIRED = Counter("runtime_segments_acquired_total", "Leases of segments that this worker acquired.")

_GIVE_UP_ON_RUN_SECONDS = 5.0
_URGENT_RUN_SECONDS = 0.2
_CANCEL_SECONDS = 2.0
_HELD_POLL_SECONDS = 0.5
_IMPEDED_POLL_SECONDS = 1.0
_RELEASE_ATTEMPT_SECONDS = 1.0
_ASK_SECONDS = 2.0


class WorkerSuperseded(UserError):
    """A newer process with the same worker id has taken the segment and its containers over; this one must end."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(
            f"another process with worker id {lease.holder.worker_id!r} on this host has taken segment "
            f"{lease.segment_id} over; this process ends and leaves the containers to it"
        )


class SegmentOwner:
    """Makes what this worker owns into what it is wanted to own, one segment at most.

    Args:
        changed: called when held, impediment or draining have changed, so that the master is told.
        stop_grace_seconds: from SIGTERM to SIGKILL when a segment is given back.
        urgent_grace_seconds: the same when its lease cannot be proven any more; with what an engine needs besides, it
            has to fit into *timing*'s margin.
    """

    def __init__(
        self,
        leases: LeaseStore,
        handler: SegmentHandler,
        holder: Holder,
        timing: LeaseTiming,
        *,
        changed: Callable[[], None] = lambda: None,
        stop_grace_seconds: float = 30.0,
        urgent_grace_seconds: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = leases
        self._handler = handler
        self._holder = holder
        self._timing = timing
        self._changed = changed
        self._stop_grace_seconds = stop_grace_seconds
        self._urgent_grace_seconds = urgent_grace_seconds
        self._clock = clock
        self._wanted: int | None = None
        self._assigned_by: Headers = {}
        self._wake = Wake()
        self._running = False
        self._at_rest = asyncio.Event()
        self.owned: OwnedSegment | None = None
        """What is owned now, from the acquisition until the release or the loss."""
        self.impediment = ""
        """Why no segment can be acquired now, in words; empty when nothing is known to hinder it."""
        self.draining = False
        """Whether drain() was called: nothing is acquired any more."""

    @property
    def held(self) -> HeldSegment | None:
        """The lease that is held now."""
        return HeldSegment(self.owned.segment_id, self.owned.epoch) if self.owned is not None else None

    def want(self, segment_id: int | None, trace: Headers | None = None) -> None:
        """Own *segment_id* from now on, and nothing else; None: own nothing. Returns at once, and may be repeated.

        *trace* is that of the decision.
        """
        if segment_id != self._wanted:
            self._wanted = segment_id
            self._assigned_by = trace or {}
            self._wake.set()

    async def drain(self) -> None:
        """Own nothing from now on; returns when the containers are stopped and the lease is released or over."""
        if not self.draining:
            self.draining = True
            self._wake.set()
            self._changed()
        if self._running:
            await self._at_rest.wait()

    async def run(self) -> None:
        """Acquire, own and give back what is wanted, for ever. Cancelled, it leaves containers and lease as they are.

        Raises:
            WorkerSuperseded: a newer process of this worker has the segment; nothing was stopped.
        """
        self._running = True
        try:
            while True:
                segment_id = self._target()
                if segment_id is None:
                    await self._stand_by()
                else:
                    about = {"runtime.segment": segment_id}
                    led_by, self._assigned_by = self._assigned_by, {}
                    with span("acquire segment", parent=led_by, attributes=about) as acquiring:
                        lease = await self._acquire(segment_id)
                    if lease is not None:
                        await self._own(lease, acquiring.headers)
        finally:
            self._running = False
            self._at_rest.set()

    def _target(self) -> int | None:
        return None if self.draining else self._wanted

    async def _stand_by(self) -> None:
        if self.draining:
            self._at_rest.set()
        if not self.impediment:
            await self._wake.wait_at_most(None)
        elif not await self._wake.wait_at_most(_IMPEDED_POLL_SECONDS):
            # Nobody assigns a segment to a worker with an impediment, so it has to find out by itself.
            try:
                await self._leases.reachable()
                self._impeded("")
            except RuntimeFault as fault:
                self._impeded(str(fault))

    # --- acquiring

    async def _acquire(self, segment_id: int) -> Lease | None:
        """The lease of *segment_id*, however long it takes; None when it is not wanted any more."""
        backoff = Backoff(initial_seconds=0.1, cap_seconds=2.0)
        while self._target() == segment_id:
            try:
                lease = await self._leases.acquire(segment_id, self._holder)
            except LeaseHeld as held:
                log.info("waiting for a segment", segment=segment_id, reason=str(held))
                # Until it has run out; or earlier, if it is released.
                await self._wake.wait_at_most(min(held.remaining_seconds + 0.01, _HELD_POLL_SECONDS))
            except (StoreUnavailable, SegmentMissing) as fault:
                await self._wait_after(fault, backoff)
            except RuntimeFault as fault:
                log.exception("a segment cannot be acquired", segment=segment_id)
                await self._wait_after(fault, backoff)
            else:
                self._impeded("")
                if lease.proven_until - self._timing.margin_seconds > self._clock():
                    return lease
        return None

    async def _wait_after(self, fault: RuntimeFault, backoff: Backoff) -> None:
        # One failure may be a hiccup; after more of them somebody else should have the segment.
        if backoff.failures > 0:
            self._impeded(str(fault))
        await self._wake.wait_at_most(backoff.next_seconds())

    def _impeded(self, impediment: str) -> None:
        if impediment != self.impediment:
            if impediment:
                log.warning("this worker cannot take a segment", reason=impediment)
            self.impediment = impediment
            self._changed()

    # --- owning

    async def _own(self, lease: Lease, trace: Headers) -> None:
        owned = OwnedSegment(lease, clock=self._clock, trace=trace)
        keeper = LeaseKeeper(
            "segment",
            lease,
            self._renew,
            self._timing,
            renewed=lambda new: self._renewed(owned, new),
            clock=self._clock,
        )
        log.info("segment acquired", segment=lease.segment_id, epoch=lease.epoch)
        ACQUIRED.inc()
        self.owned = owned
        self._changed()
        keeping = asyncio.create_task(keeper.keep(), name="keep the segment's lease")
        keeping.add_done_callback(lambda _: self._wake.set())
        self._refresh(lease)
        work = HandlerRun(self._handler, owned)
        try:
            while not keeping.done() and self._target() == lease.segment_id:
                await self._wake.wait_at_most(None)
            if not keeping.done():
                await self._give_back(owned, work, keeping)
            if not keeping.cancelled() and keeping.done():
                await self._lapsed(owned, work, keeping.result())
        finally:
            work.cancel()
            keeping.cancel()
            await asyncio.wait([keeping, work.task], timeout=_CANCEL_SECONDS)
            self.owned = None
            self._changed()

    async def _give_back(self, owned: OwnedSegment, work: HandlerRun, keeping: "asyncio.Task[Lapse]") -> None:
        """Bring the host to rest while the lease is being renewed, then release it. Ends early when the lease ends."""
        log.info("segment is given back", segment=owned.segment_id, epoch=owned.epoch)
        resting = asyncio.create_task(
            self._come_to_rest(owned, work, _GIVE_UP_ON_RUN_SECONDS, self._stop_grace_seconds),
            name="stop the segment's containers",
        )
        try:
            await asyncio.wait([resting, keeping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not resting.done():
                resting.cancel()
                await asyncio.wait([resting], timeout=_URGENT_RUN_SECONDS)
        if keeping.done():
            return
        resting.result()
        keeping.cancel()
        await asyncio.wait([keeping])
        await self._release(owned)

    async def _come_to_rest(
        self, owned: OwnedSegment, work: HandlerRun, run_limit_seconds: float, grace_seconds: float
    ) -> None:
        ended = await work.end(run_limit_seconds)
        await stop_until_done(self._handler, owned, grace_seconds)
        if not ended:
            # It may have started something in the meantime.
            await work.end(None)
            await stop_until_done(self._handler, owned, grace_seconds)

    async def _lapsed(self, owned: OwnedSegment, work: HandlerRun, lapse: Lapse) -> None:
        """The lease is over, or nearly: let go of the containers, or stop them before anybody else may start them."""
        log.error(
            "lease lost",
            segment=owned.segment_id,
            epoch=owned.epoch,
            reason=lapse.reason,
            left_seconds=round(owned.proven_seconds(), 2),
        )
        self.owned = None
        if lapse.superseded or await self._found_superseded(owned):
            work.cancel()
            raise WorkerSuperseded(owned.lease)
        self._impeded(f"the containers of segment {owned.segment_id} are still being stopped")
        await self._come_to_rest(owned, work, _URGENT_RUN_SECONDS, self._urgent_grace_seconds)
        log.info("host is at rest", segment=owned.segment_id, left_seconds=round(owned.proven_seconds(), 2))
        self._impeded("")

    async def _found_superseded(self, owned: OwnedSegment) -> bool:
        if owned.proven_seconds() > 0:
            return False
        # This process stood still until after the end: the containers' own switch has acted, so there is time to ask
        # whether what runs here now is a successor's.
        try:
            return await self._leases.superseded(owned.lease, timeout_seconds=_ASK_SECONDS)
        except RuntimeFault:
            return False

    async def _release(self, owned: OwnedSegment) -> None:
        while owned.proven(margin_seconds=0.0):
            try:
                await self._leases.release(owned.lease, timeout_seconds=_RELEASE_ATTEMPT_SECONDS)
            except RuntimeFault as fault:
                log.warning("lease not released", segment=owned.segment_id, reason=str(fault))
                await asyncio.sleep(self._timing.retry_seconds)
            else:
                log.info("segment released", segment=owned.segment_id, epoch=owned.epoch)
                return
        log.warning("lease left to run out", segment=owned.segment_id, epoch=owned.epoch)

    async def _renew(self, lease: Lease, limit_seconds: float) -> Lease:
        return await self._leases.renew(lease, timeout_seconds=limit_seconds)

    def _renewed(self, owned: OwnedSegment, lease: Lease) -> None:
        owned.lease = lease
        self._handler.renewed(lease)

    def _refresh(self, lease: Lease) -> None:
        try:
            self._handler.renewed(lease)
        except Exception:
            # The next renewal does it again; until then the containers' own switch is stricter than it need be.
            log.exception("could not act on an acquired lease", segment=lease.segment_id)
