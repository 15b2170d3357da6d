"""Own one segment: acquire its lease, run the handler under it, and stop all work before it expires."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from prometheus_client import Counter

from libs.core.aio.backoff import Backoff
from libs.core.aio.wake import Wake
from libs.core.errors import RuntimeFault, UserError
from libs.core.leases.boot_clock import boot_seconds
from libs.core.leases.lease import Holder, Lease, LeaseHeld, LeaseView, Taken, TakeoverTooEarly
from libs.core.leases.lease_keeper import Lapse, LeaseKeeper, LeaseTiming
from libs.core.observability.log import get_logger
from libs.core.observability.tracing import Headers, span
from libs.core.store.client import StoreUnavailable
from libs.core.store.leases import LeaseStore
from libs.core.worker.handler import OwnedSegment, SegmentHandler
from libs.core.worker.segment_release import ReleaseEnvironment, SegmentRelease, release, release_once
from libs.core.worker.supervised import HandlerRun, stop_until_done

log = get_logger(__name__)

ACQUIRED = Counter("runtime_segments_acquired_total", "Leases of segments acquired by this worker.")

_GIVE_UP_ON_RUN_SECONDS = 5.0
_URGENT_RUN_SECONDS = 0.2
_CANCEL_SECONDS = 2.0
_HELD_POLL_SECONDS = 0.5
_REFUSED_SECONDS = 2.0
_ASK_SECONDS = 2.0
_ANSWER_SECONDS = 1.0


class WorkerSuperseded(UserError):
    """A newer process with the same worker id took over the segment and its containers; this one must end."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(
            f"another process with worker id {lease.holder.worker_id!r} on this host took over segment "
            f"{lease.segment_id}; this process ends without stopping its containers"
        )


class Environment(ReleaseEnvironment, Protocol):
    """What the owners of one worker share, and where they report what concerns all of them."""

    def changed(self) -> None:
        """Report that an owner's held or refused segment changed."""

    def store_answered(self, fault: str) -> None:
        """Report that an acquisition reached the database, or failed to (*fault* is the reason)."""

    def not_taken_over(self, segment_id: int) -> None:
        """Report that a lease that was to be taken over has changed meanwhile."""


class SegmentOwner:
    """Owns one segment from its assignment until its release: acquires the lease, runs the handler under it.

    Args:
        stop_grace_seconds: from SIGTERM to SIGKILL when the segment is released.
        urgent_grace_seconds: the same when its lease can no longer be proven; together with the engine's own time,
            it has to fit into *timing*'s margin.
    """

    def __init__(
        self,
        segment_id: int,
        leases: LeaseStore,
        handler: SegmentHandler,
        holder: Holder,
        timing: LeaseTiming,
        environment: Environment,
        *,
        stop_grace_seconds: float = 30.0,
        urgent_grace_seconds: float = 0.5,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self.segment_id = segment_id
        self._leases = leases
        self._handler = handler
        self._holder = holder
        self._timing = timing
        self._environment = environment
        self._stop_grace_seconds = stop_grace_seconds
        self._urgent_grace_seconds = urgent_grace_seconds
        self._clock = clock
        self._wanted = False
        self._assigned_by: Headers = {}
        self._former: LeaseView | None = None
        self._wake = Wake()
        self.owned: OwnedSegment | None = None
        """The ownership, from the acquisition until the release or the loss."""
        self.refusal = ""
        """Why the segment cannot be acquired now, for users; empty without a known reason."""

    def want(self, trace: Headers | None = None) -> None:
        """Own the segment from now on. Returns at once, and may be repeated. *trace* is that of the decision."""
        if not self._wanted:
            self._wanted = True
            self._assigned_by = trace or {}
            self._wake.set()

    def take_over(self, former: LeaseView) -> None:
        """Acquire the live lease *former* of a dead or agreeing neighbour. Returns at once, and may be repeated."""
        self._former = former
        self._wake.set()

    def give_back(self) -> None:
        """Release the segment: run() ends when it is released. Returns at once, and may be repeated."""
        if self._wanted:
            self._wanted = False
            self._wake.set()

    def refuse(self, reason: str) -> None:
        """Report *reason* as the hindrance of the acquisition; empty without one. May be repeated."""
        if reason != self.refusal:
            if reason:
                log.warning("segment refused", segment=self.segment_id, reason=reason)
            self.refusal = reason
            self._environment.changed()

    async def run(self) -> None:
        """Acquire and own the segment; return when it is no longer assigned and no container of it runs.

        If cancelled, leave containers and lease as they are.

        Raises:
            WorkerSuperseded: a newer process of this worker has the segment; nothing was stopped.
        """
        while self._wanted:
            about = {"runtime.segment": self.segment_id}
            led_by, self._assigned_by = self._assigned_by, {}
            with span("acquire segment", parent=led_by, attributes=about) as acquiring:
                lease = await self._acquire()
            if lease is not None:
                await self._own(lease, acquiring.headers)

    # --- acquiring

    async def _acquire(self) -> Lease | None:
        """Return the lease, without a time limit; None when the segment is no longer assigned."""
        backoff = Backoff(initial_seconds=0.1, cap_seconds=2.0)
        while self._wanted:
            former = self._former
            try:
                lease = await self._leases.acquire(self.segment_id, self._holder, former=former)
            except (LeaseHeld, TakeoverTooEarly) as held:
                self._environment.store_answered("")
                if former is not None:
                    self._former = None
                    self._environment.not_taken_over(self.segment_id)
                    continue
                log.info("waiting for a segment", segment=self.segment_id, reason=str(held))
                # Until it expires, or earlier if it is released.
                await self._wake.wait_at_most(min(held.remaining_seconds + 0.01, _HELD_POLL_SECONDS))
            except RuntimeFault as fault:
                await self._wait_after(fault, backoff)
            else:
                self._environment.store_answered("")
                if former is not None:
                    log.info("segment taken over", segment=self.segment_id, former=former.holder.worker_id)
                if lease.proven_until - self._timing.margin_seconds > self._clock():
                    self._former = None
                    return lease
        return None

    async def _wait_after(self, fault: RuntimeFault, backoff: Backoff) -> None:
        # One failure may be transient; after more of them another worker should have the segment.
        if backoff.failures > 0:
            if isinstance(fault, StoreUnavailable):
                self._environment.store_answered(str(fault))
            else:
                self.refuse(str(fault))
        await self._wake.wait_at_most(backoff.next_seconds())
        if isinstance(fault, StoreUnavailable):
            # If requests arrive and answers do not, each attempt would take the lease, and keep it from other workers.
            await self._until_store_answers(backoff)

    async def _until_store_answers(self, backoff: Backoff) -> None:
        """Return after a successful round trip, or when the segment is not wanted any more."""
        while self._wanted:
            try:
                await self._leases.reachable(timeout_seconds=_ANSWER_SECONDS)
            except RuntimeFault as fault:
                self._environment.store_answered(str(fault))
                await self._wake.wait_at_most(backoff.next_seconds())
            else:
                return

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
        if not await self._begin(owned):
            return
        self.owned = owned
        self.refuse("")
        self._environment.changed()
        keeping = asyncio.create_task(keeper.keep(), name=f"keep the lease of segment {self.segment_id}")
        keeping.add_done_callback(lambda _: self._wake.set())
        work = HandlerRun(self._handler, owned)
        try:
            while not keeping.done() and self._wanted:
                await self._wake.wait_at_most(None)
            if not keeping.done():
                await self._give_back(owned, work, keeping)
            if not keeping.cancelled() and keeping.done():
                await self._lapsed(owned, work, keeping.result())
        finally:
            work.cancel()
            keeping.cancel()
            await asyncio.wait([keeping, work.task], timeout=_CANCEL_SECONDS)
            self._gone()

    def _gone(self) -> None:
        """Report that the segment is not owned any more."""
        self.owned = None
        self._environment.changed()

    async def _begin(self, owned: OwnedSegment) -> bool:
        """Write the keepalive for the lease. If that fails, stop all containers of the segment, then release it."""
        try:
            async with asyncio.timeout(self._timing.attempt_seconds):
                await self._handler.renewed(owned.lease)
        except Exception as error:
            log.exception("an acquired lease is released after an error", segment=self.segment_id)
            # An earlier process may have left containers that still run under its last keepalive. That expires
            # before the lease, which is released early only if they are known to have ended.
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, owned.proven_seconds())):
                    await stop_until_done(self._handler, owned, self._urgent_grace_seconds)
                    await release(self._leases, owned, self._timing)
            # Reported only now, when another worker can acquire it.
            self.refuse(f"its keepalive cannot be written: {str(error) or type(error).__name__}")
            await self._wake.wait_at_most(0)  # earlier wake-ups are processed
            if self._wanted:
                await self._wake.wait_at_most(_REFUSED_SECONDS)
            return False
        return True

    async def _give_back(self, owned: OwnedSegment, work: HandlerRun, keeping: "asyncio.Task[Lapse]") -> None:
        giving = SegmentRelease(
            owned,
            work,
            keeping,
            leases=self._leases,
            handler=self._handler,
            environment=self._environment,
            timing=self._timing,
            ceded=self._gone,
        )
        if await giving.run(self._stop_grace_seconds):
            self._leave(owned)

    def _leave(self, owned: OwnedSegment) -> None:
        """Leave the containers to the neighbour that owns the segment now."""
        log.info("segment is with another worker of this engine", segment=owned.segment_id, epoch=owned.epoch)
        self._gone()
        self._handler.leave(owned)

    async def _lapsed(self, owned: OwnedSegment, work: HandlerRun, lapse: Lapse) -> None:
        """Handle the end of the lease: leave the containers to a successor, or stop them before others start."""
        (log.info if lapse.taken is Taken.BY_NEIGHBOUR else log.error)(
            "lease lost",
            segment=owned.segment_id,
            epoch=owned.epoch,
            reason=lapse.reason,
            left_seconds=round(owned.proven_seconds(), 2),
        )
        self.owned = None
        taken = await self._taken(owned, lapse)
        if taken is Taken.BY_SAME_WORKER:
            work.cancel()
            raise WorkerSuperseded(owned.lease)
        if taken is Taken.BY_NEIGHBOUR:
            # It continues all containers of the segment, and refreshes their keepalive.
            await work.end(_GIVE_UP_ON_RUN_SECONDS)
            self._leave(owned)
            return
        self.refuse(f"its containers are still being stopped after its lease was lost: {lapse.reason}")
        if lapse.found_lost:
            await self._expire_at_once(owned)
        await work.come_to_rest(_URGENT_RUN_SECONDS, self._urgent_grace_seconds)
        log.info("lost segment stopped", segment=owned.segment_id, left_seconds=round(owned.proven_seconds(), 2))
        # Where only the keepalive failed, the database still has the lease.
        if not await release_once(self._leases, owned):
            # Not eligible before: the segment would be assigned here again while other workers could acquire it.
            self.refuse(f"MongoDB has not answered since its lease was lost: {lapse.reason}")
            self._environment.store_answered(f"MongoDB does not answer: {lapse.reason}")
            await self._until_store_answers(Backoff(initial_seconds=0.1, cap_seconds=1.0))
            if not self._wanted:
                return
        self.refuse("")

    async def _expire_at_once(self, owned: OwnedSegment) -> None:
        """End the containers by the dead-man's switch: another worker may start them now, despite a valid proof.

        MongoDB's clock jumped, or the lease was changed by hand. The engine may be slow to stop them.
        """
        owned.lease = replace(owned.lease, proven_until=min(owned.lease.proven_until, self._clock()))
        try:
            async with asyncio.timeout(self._timing.attempt_seconds):
                await self._handler.expire(owned)
        except Exception:
            log.exception("the keepalive of a lost lease cannot be expired", segment=owned.segment_id)

    async def _taken(self, owned: OwnedSegment, lapse: Lapse) -> Taken:
        if lapse.taken is not Taken.NO or owned.proven_seconds() > 0:
            return lapse.taken
        # This process stood still until after the end: the dead-man's switch has acted, so there is time to check
        # whether the containers here belong to a successor.
        try:
            return await self._leases.taken(owned.lease, timeout_seconds=_ASK_SECONDS)
        except RuntimeFault:
            return Taken.NO

    async def _renew(self, lease: Lease, limit_seconds: float) -> Lease:
        return await self._leases.renew(lease, timeout_seconds=limit_seconds)

    async def _renewed(self, owned: OwnedSegment, lease: Lease) -> None:
        await self._handler.renewed(lease)
        owned.lease = lease
