"""The other workers of this worker's engine: take over from those that died, and hand leases over before an end.

As long as an engine lives, nothing that happens to one of its workers touches a container: a neighbour acquires the
dead worker's leases by conditional updates, each exactly of the lease that was read, and adopts the containers before
their keepalive expires. No master takes part; it learns of the takeover from the neighbour's next report.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from prometheus_client import Counter

from libs.core.aio.threads import Threads
from libs.core.aio.wake import Wake
from libs.core.errors import RuntimeFault
from libs.core.leases.lease import Holder, Lease, LeaseView, Taken
from libs.core.observability.log import get_logger
from libs.core.process.isolation import repeat
from libs.core.store.leases import LeaseStore
from libs.core.worker.shared_folder import Offer, SharedFolder, SharingWorker

log = get_logger(__name__)

HANDED_OVER = Counter("runtime_segments_handed_over_total", "Leases handed over to another worker of the engine.")

_POLL_SECONDS = 0.25
_ALONE_SECONDS = 1.0
"""The interval of a worker without neighbours, as most are in Kubernetes."""
_ANSWER_SECONDS = 1.0
_NO_FOLDER_SECONDS = 5.0
_FORGET_SECONDS = 10.0
"""How long a dead worker's file is kept: a request that it sent before its death may still acquire a lease."""
_OFFER_POLL_SECONDS = 0.05
_NAMED_SECONDS = 0.75
_OFFER_SECONDS = 2.5


class Successor(Protocol):
    """The owners of this worker's segments."""

    def take_over(self, former: LeaseView) -> None:
        """Acquire the lease that another worker held as *former*. Returns at once, and may be repeated."""

    def epoch_of(self, segment_id: int) -> int | None:
        """Return the epoch under which the segment is owned now; None when it is not."""


class Neighbours:
    """Watches the other workers in *folder*.

    Args:
        may_take: whether this worker can continue containers of its engine now.
    """

    def __init__(
        self,
        folder: SharedFolder,
        holder: Holder,
        leases: LeaseStore,
        successor: Successor,
        *,
        may_take: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._holder = holder
        self._leases = leases
        self._successor = successor
        self._may_take = may_take
        self._clock = clock
        # One thread: the folder may be on a disk.
        self._threads = Threads("neighbours", 1)
        self._wake = Wake()
        self._without_leases_since: dict[str, float] = {}
        self._has_offers = False
        self._is_unseen = False
        self._leaving = False
        self._turn = random.randrange(1 << 16)  # noqa: S311 - spreads segments, no secret

    async def open(self) -> bool:
        """Show this worker to the others; return whether they can see it. May be repeated."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._threads.run(self._folder.open)
        except (OSError, TimeoutError) as error:
            if not self._is_unseen:
                log.warning(
                    "no other worker of this engine can take over from this one; check KEEPALIVE_DIR",
                    reason=str(error) or "the folder does not answer",
                )
            self._is_unseen = True
            return False
        self._is_unseen = False
        return True

    async def run(self) -> None:
        """Take over from dead and leaving neighbours, forever."""
        await repeat("watch neighbours", self._one_round, _POLL_SECONDS, wake=self._wake)

    def changed(self) -> None:
        """Note that the owned segments changed: a taken lease is confirmed to its former holder at once."""
        if self._has_offers:
            self._wake.set()

    def close(self, *, keeps_leases: bool) -> None:
        """Release this worker's lock. With *keeps_leases* neighbours take over what it has left. May be repeated."""
        try:
            self._folder.close(keeps_leases=keeps_leases)
        except OSError as error:
            log.warning("the file of this worker was not removed", reason=str(error))
        self._threads.close()

    # --- taking over

    async def _one_round(self) -> float | None:
        if not self._folder.is_open and not await self.open():
            return _NO_FOLDER_SECONDS
        try:
            found = await self._threads.run(self._folder.neighbours)
        except OSError as error:
            log.warning("the other workers of this engine cannot be watched", reason=str(error))
            return _NO_FOLDER_SECONDS
        self._has_offers = any(worker.alive and worker.offers for worker in found)
        for worker in found:
            if not worker.alive:
                await self._succeed(worker.holder)
            else:
                await self._take_offers(worker)
        return None if found else _ALONE_SECONDS

    async def _succeed(self, dead: Holder) -> None:
        try:
            left = await self._leases.held_by(dead, timeout_seconds=_ANSWER_SECONDS)
        except RuntimeFault as fault:
            log.warning("leases of a dead worker cannot be read", worker=dead.worker_id, reason=str(fault))
            return
        now = self._clock()
        since = self._without_leases_since.setdefault(dead.instance_id, now)
        if left:
            self._without_leases_since[dead.instance_id] = now
        elif now - since > _FORGET_SECONDS:
            del self._without_leases_since[dead.instance_id]
            await self._threads.run(self._folder.forget, dead)
        if self._may_take():
            for lease in left:
                self._successor.take_over(lease)

    async def _take_offers(self, giver: SharingWorker) -> None:
        for offer in giver.offers:
            if (self._successor.epoch_of(offer.segment_id) or 0) > offer.epoch:
                await self._threads.run(self._folder.accept, giver.holder, offer.segment_id)
            elif self._may_take() and not self._leaving and offer.to in ("", self._holder.instance_id):
                self._successor.take_over(LeaseView(offer.segment_id, giver.holder, offer.epoch, 0.0))

    # --- handing over

    async def leave(self) -> None:
        """Take nothing more, and let no other worker offer anything. May be repeated."""
        self._leaving = True
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._threads.run(self._folder.leave)

    async def exist(self) -> bool:
        """Return whether a neighbour could take a lease now."""
        return bool(await self._takers())

    async def hand_over(self, lease: Lease) -> bool:
        """Offer *lease* to the neighbours; return whether one has it now. If cancelled, withdraw the offer.

        The lease must be renewed meanwhile, and nothing may be started in its segment.
        """
        takers = await self._takers()
        if not takers:
            return False
        self._turn += 1
        named = takers[self._turn % len(takers)].holder.instance_id
        begun = self._clock()
        try:
            await self._threads.run(self._folder.offer, Offer(lease.segment_id, lease.epoch, named))
            while self._clock() - begun < _OFFER_SECONDS:
                await asyncio.sleep(_OFFER_POLL_SECONDS)
                if not await self._threads.run(self._folder.is_offered, lease.segment_id):
                    # Removed by the worker that has acquired the lease.
                    HANDED_OVER.inc()
                    return True
                if named and self._clock() - begun > _NAMED_SECONDS:
                    # It may be frozen, or about to end too, as all workers do when a deployment is stopped.
                    if not await self._takers():
                        break
                    named = ""
                    await self._threads.run(self._folder.offer, Offer(lease.segment_id, lease.epoch))
        except OSError as error:
            log.warning("lease not offered to other workers", segment=lease.segment_id, reason=str(error))
        finally:
            # Not awaited: this may be cancelled, also at the end of the process.
            with suppress(RuntimeError):
                self._threads.submit(self._folder.withdraw, lease.segment_id)
        return await self._is_taken(lease)

    async def _takers(self) -> list[SharingWorker]:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                found = await self._threads.run(self._folder.neighbours)
        except (OSError, TimeoutError):
            return []
        return [worker for worker in found if worker.alive and not worker.leaving]

    async def _is_taken(self, lease: Lease) -> bool:
        try:
            taken = await self._leases.taken(lease, timeout_seconds=_ANSWER_SECONDS) is Taken.BY_NEIGHBOUR
        except RuntimeFault:
            return False  # the next renewal shows it
        if taken:
            HANDED_OVER.inc()
        return taken
