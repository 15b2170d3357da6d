"""Elect one of several masters by a lease, and run the leader's work only while the leadership is proven."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from libs.core.aio.backoff import Backoff
from libs.core.errors import RuntimeFault
from libs.core.http.health import Readiness
from libs.core.leases.boot_clock import boot_seconds
from libs.core.leases.lease import Holder, Leadership, LeaseHeld
from libs.core.leases.lease_keeper import LeaseKeeper, LeaseTiming
from libs.core.observability.log import get_logger
from libs.core.store.leases import LeadershipStore

log = get_logger(__name__)

DEPENDENCY = "leadership"
"""The name under which readiness shows whether this master leads."""

SETTLED_SECONDS = 10.0
"""How long a standby watches the same leader before it is ready. Until then workers that reach masters through a
Service all reach the leader, since a standby that is not ready is no endpoint of the Service."""

_POLL_SECONDS = 1.0
_RELEASE_SECONDS = 2.0


class Sighting:
    """The leader as last seen by another master. Times are in seconds on one clock."""

    def __init__(self) -> None:
        self._holder: Holder | None = None
        self._first_seen = 0.0
        self._expires = 0.0

    def see(self, holder: Holder, remaining_seconds: float, now: float) -> None:
        """Note the holder of a lease that ends after *remaining_seconds*."""
        if holder != self._holder:
            self._holder, self._first_seen = holder, now
        self._expires = now + remaining_seconds

    def forget(self) -> None:
        """Begin anew: this master led in between."""
        self._holder = None

    def leader(self, now: float) -> str | None:
        """Return the worker id of the leader; None when its lease has ended since."""
        return self._holder.worker_id if self._holder is not None and now < self._expires else None

    def is_settled(self, now: float) -> bool:
        """Whether one master has led for long enough, as far as known. Not knowing, as in an outage, ends nothing."""
        return self._holder is not None and now - self._first_seen >= SETTLED_SECONDS


class Campaign:
    """Stands for election forever, and runs the leader's work while this process is the leader.

    Args:
        holder: this process, with a unique instance id.
    """

    def __init__(
        self,
        store: LeadershipStore,
        holder: Holder,
        timing: LeaseTiming,
        readiness: Readiness,
        *,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self._store = store
        self._holder = holder
        self._timing = timing
        self._readiness = readiness
        self._clock = clock
        self._keeper: LeaseKeeper[Leadership] | None = None
        self._sighting = Sighting()
        self.leader: str | None = None
        """The worker id of the leading master, as last read."""
        readiness.expect(DEPENDENCY, "standing for election")

    @property
    def leads(self) -> bool:
        """Whether this process leads, and can prove it now."""
        return self._keeper is not None and self._keeper.safe_seconds() > 0

    @property
    def epoch(self) -> int | None:
        """The epoch of the leadership; None when this process does not lead."""
        return self._keeper.lease.epoch if self._keeper is not None and self.leads else None

    @property
    def other_leader(self) -> str | None:
        """The worker id of another master that leads now; None when this one leads, or none does."""
        return self._sighting.leader(self._clock()) if not self.leads else None

    async def run(
        self, lead: Callable[[], Awaitable[None]], stand_by: Callable[[bool], Awaitable[None]] | None = None
    ) -> None:
        """Run *lead* whenever this process leads, and cancel it before the leadership expires. Does not return.

        *lead* must not return; an error in it is raised here. If cancelled, resign first.

        Args:
            stand_by: called while another master leads, about once a second, with whether that has settled.
        """
        while True:
            leadership = await self._win(stand_by)
            self._sighting.forget()
            log.info("this master leads", epoch=leadership.epoch)
            keeper = LeaseKeeper("leadership", leadership, self._renew, self._timing, clock=self._clock)
            self._keeper = keeper
            self._readiness.report(DEPENDENCY, True, f"leads (epoch {leadership.epoch})")
            leading = asyncio.ensure_future(lead())
            keeping = asyncio.create_task(keeper.keep(), name="keep leadership")
            try:
                await asyncio.wait([leading, keeping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._keeper = None
                self._readiness.report(DEPENDENCY, False, "no longer leads")
                for task in (leading, keeping):
                    task.cancel()
                await asyncio.wait([leading, keeping])
                if keeping.cancelled():
                    await asyncio.shield(self._resign(keeper.lease))
            if not leading.cancelled():
                leading.result()
                raise RuntimeError("the leader's work ended unexpectedly")
            log.warning("this master no longer leads", reason=keeping.result().reason)

    async def _win(self, stand_by: Callable[[bool], Awaitable[None]] | None) -> Leadership:
        backoff = Backoff(initial_seconds=0.2, cap_seconds=2.0)
        while True:
            try:
                leadership = await self._store.acquire(self._holder)
            except LeaseHeld as held:
                self.leader = held.by.worker_id
                self._sighting.see(held.by, held.remaining_seconds, self._clock())
                settled = self._sighting.is_settled(self._clock())
                self._readiness.report(DEPENDENCY, settled, f"{held.by.worker_id} leads; this master is on standby")
                if stand_by is not None:
                    await stand_by(settled)
                # Soon after the lease may expire, and often enough to detect a leader that resigned.
                await asyncio.sleep(min(held.remaining_seconds + 0.02, _POLL_SECONDS))
            except RuntimeFault as fault:
                self._readiness.report(DEPENDENCY, False, f"cannot stand for election: {fault}")
                await asyncio.sleep(backoff.next_seconds())
            else:
                if leadership.proven_until - self._timing.margin_seconds > self._clock():
                    self.leader = self._holder.worker_id
                    return leadership

    async def _renew(self, leadership: Leadership, limit_seconds: float) -> Leadership:
        return await self._store.renew(leadership, timeout_seconds=limit_seconds)

    async def _resign(self, leadership: Leadership) -> None:
        with contextlib.suppress(RuntimeFault):  # It expires.
            await self._store.release(leadership, timeout_seconds=_RELEASE_SECONDS)
