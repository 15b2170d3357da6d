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

_POLL_SECONDS = 1.0
_RELEASE_SECONDS = 2.0


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

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Run *lead* whenever this process leads, and cancel it before the leadership expires. Does not return.

        *lead* must not return; an error in it is raised here. If cancelled, resign first.
        """
        while True:
            leadership = await self._win()
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

    async def _win(self) -> Leadership:
        backoff = Backoff(initial_seconds=0.2, cap_seconds=2.0)
        while True:
            try:
                leadership = await self._store.acquire(self._holder)
            except LeaseHeld as held:
                self.leader = held.by.worker_id
                self._readiness.report(DEPENDENCY, False, f"{held.by.worker_id} leads; this master is on standby")
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
