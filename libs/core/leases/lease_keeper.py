"""Keep a lease: renew it in time, and report early enough that it can no longer be proven."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from prometheus_client import Counter

from libs.core.leases.boot_clock import boot_seconds
from libs.core.leases.lease import LeaseLost, Taken
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe

log = get_logger(__name__)

LAPSES = Counter("runtime_lease_lapses_total", "Leases that ended without being released.", ["lease", "reason"])

_CANCEL_SECONDS = 0.1


class Provable(Protocol):
    """A lease whose holder knows until when it is proven, by the boot-time clock."""

    @property
    def proven_until(self) -> float:
        """See libs.core.leases.lease.Lease."""

    @property
    def epoch(self) -> int:
        """Its fencing token."""


L = TypeVar("L", bound=Provable)


@dataclass(frozen=True)
class LeaseTiming:
    """When to renew and when to give up, in seconds."""

    renew_interval_seconds: float
    """Interval from one successful request to the next."""
    attempt_seconds: float
    """Time limit of one request."""
    retry_seconds: float
    """Delay between a failed request and the next."""
    margin_seconds: float
    """Time before the end of the proof at which the lease counts as lost: the time to stop the host's containers."""

    @classmethod
    def of(cls, life_seconds: float, renew_interval_seconds: float) -> Self:
        """Return the timing for a lease of that life: with 5 s, two attempts of 1 s, and 1.5 s to stop the host."""
        return cls(renew_interval_seconds, 0.2 * life_seconds, 0.02 * life_seconds, 0.3 * life_seconds)


@dataclass(frozen=True)
class Lapse:
    """How a lease ended.

    Attributes:
        reason: for users.
        found_lost: whether the database said so; otherwise the lease only cannot be proven any more.
    """

    reason: str
    found_lost: bool = False
    taken: Taken = Taken.NO


_UNPROVEN = "it could not be renewed in time"


class LeaseKeeper(Generic[L]):
    """Renews one lease. *lease* is always the latest one.

    Args:
        kind: the lease's name in metrics: "segment" or "leadership".
        renew: makes one request, with its limit in seconds; raises LeaseLost when the lease is lost, and any other
            error when the outcome is unknown.
        renewed: awaited with each renewed lease while it is proven. While it raises, the renewal does not count, so
            that the lease ends with the last proof that was acted on.
    """

    def __init__(
        self,
        kind: str,
        lease: L,
        renew: Callable[[L, float], Awaitable[L]],
        timing: LeaseTiming,
        *,
        renewed: Callable[[L], Awaitable[None]] | None = None,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self.lease = lease
        self._kind = kind
        self._renew = renew
        self._timing = timing
        self._renewed = renewed
        self._clock = clock
        self._failure = ""
        for taken in Taken:
            LAPSES.labels(kind, taken.value)  # exported as 0, so that the first lapse shows as an increase

    def safe_seconds(self) -> float:
        """Return the seconds for which the lease is proven, less the margin; zero or less: it must not be used."""
        return self.lease.proven_until - self._timing.margin_seconds - self._clock()

    async def keep(self) -> Lapse:
        """Renew until the lease is lost or its proof is nearly over, and return how it ended.

        If cancelled, it stops renewing; the lease then expires or is released.
        """
        renewing = asyncio.create_task(self._renew_for_ever(), name=f"renew {self._kind}")
        try:
            lapse = await self._guard(renewing)
        finally:
            renewing.cancel()
            # Not longer: the caller has to act before the lease ends.
            await asyncio.wait([renewing], timeout=_CANCEL_SECONDS)
        LAPSES.labels(self._kind, lapse.taken.value).inc()
        return lapse

    async def _guard(self, renewing: "asyncio.Task[Lapse]") -> Lapse:
        # Independent of the renewals, so that a hanging request cannot delay it.
        while (left := self.safe_seconds()) > 0:
            done, _ = await asyncio.wait([renewing], timeout=left)
            if done:
                return renewing.result()
        return self._unproven()

    def _unproven(self) -> Lapse:
        return Lapse(f"{_UNPROVEN}: {self._failure}" if self._failure else _UNPROVEN)

    async def _renew_for_ever(self) -> Lapse:
        pause = self._timing.renew_interval_seconds
        while True:
            await asyncio.sleep(pause)
            begun = self._clock()
            if (left := self.safe_seconds()) <= 0:
                # This process stood still for too long. Asking the server now would only lose time.
                return self._unproven()
            limit = min(self._timing.attempt_seconds, left)
            try:
                with observe("lease", f"renew {self._kind}"):
                    lease = await self._renew(self.lease, limit)
                await self._take(lease, limit)
            except LeaseLost as lost:
                return Lapse(str(lost), found_lost=True, taken=lost.taken)
            except Exception as error:  # noqa: BLE001 - after any failure the lease is not renewed; the guard decides
                log.warning("lease not renewed", lease=self._kind, left_seconds=round(left, 2), reason=str(error))
                self._failure = str(error) or type(error).__name__
                pause = self._timing.retry_seconds
            else:
                self._failure = ""
                pause = max(0.0, self._timing.renew_interval_seconds - (self._clock() - begun))

    async def _take(self, lease: L, limit_seconds: float) -> None:
        if lease.proven_until - self._timing.margin_seconds <= self._clock():
            # The answer arrived too late (this process stood still); its proof is already over.
            return
        if self._renewed is not None:
            async with asyncio.timeout(limit_seconds):
                await self._renewed(lease)
        self.lease = lease
