"""Give up an owned segment: hand it over to a neighbour, cede it, or stop its containers and release its lease."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from libs.core.errors import RuntimeFault
from libs.core.leases.lease import Lease, LeaseLost
from libs.core.leases.lease_keeper import Lapse, LeaseTiming
from libs.core.observability.log import get_logger
from libs.core.store.leases import LeaseStore
from libs.core.worker.handler import OwnedSegment, SegmentHandler
from libs.core.worker.supervised import HandlerRun

log = get_logger(__name__)

_Result = TypeVar("_Result")

_END_OF_RUN_SECONDS = 5.0
_CANCEL_SECONDS = 0.2
_LOST_ENGINE_SECONDS = 2.0
_PROMISE_SECONDS = 10.0
_AFTER_DEADLINE_SECONDS = 5.0
_ATTEMPT_SECONDS = 1.0


class ReleaseEnvironment(Protocol):
    """What the release of a segment depends on, besides the segment itself."""

    @property
    def engine_lost(self) -> bool:
        """Whether the engine has not answered for some seconds, so that containers cannot be stopped through it."""

    async def can_hand_over(self) -> bool:
        """Return whether this worker ends and another worker of its engine could continue its containers."""

    async def hand_over(self, lease: Lease) -> bool:
        """Offer *lease* to the other workers of the engine; return whether one has it now."""


class SegmentRelease:
    """The release of one segment, once.

    Args:
        work: the handler's run for the segment.
        keeping: renews the lease, until it is cancelled or the lease has ended.
        ceded: called when another worker may own the segment, while its containers still stop.
    """

    def __init__(
        self,
        owned: OwnedSegment,
        work: HandlerRun,
        keeping: "asyncio.Task[Lapse]",
        *,
        leases: LeaseStore,
        handler: SegmentHandler,
        environment: ReleaseEnvironment,
        timing: LeaseTiming,
        ceded: Callable[[], None],
    ) -> None:
        self._owned = owned
        self._work = work
        self._keeping = keeping
        self._leases = leases
        self._handler = handler
        self._environment = environment
        self._timing = timing
        self._ceded = ceded

    async def run(self, grace_seconds: float) -> bool:
        """Stop the containers while the lease is renewed, then release it. Ends early when the lease ends.

        At the end of this worker, another one of its engine gets the lease with the running containers.

        Args:
            grace_seconds: from SIGTERM to SIGKILL.

        Returns:
            Whether another worker has the segment and continues its containers.
        """
        log.info("releasing segment", segment=self._owned.segment_id, epoch=self._owned.epoch)
        if await self._hand_over():
            await self._end_keeping()
            return True
        if not self._keeping.done() and not await self._cede(grace_seconds) and not self._keeping.done():
            await self._stop_and_release(grace_seconds)
        return False

    # --- to a neighbour

    async def _hand_over(self) -> bool:
        """Return whether another worker of the engine has the lease now; it is renewed until then."""
        if not await self._environment.can_hand_over():
            return False
        self._owned.is_handed_over = True
        return bool(await self._while_leased(self._offered(), "hand over segment to a neighbour"))

    async def _offered(self) -> bool:
        # Started by this worker, a container could be missed by the next owner.
        if not await self._work.end(_END_OF_RUN_SECONDS):
            return False
        return await self._environment.hand_over(self._owned.lease)

    # --- to any worker, while containers stop

    async def _cede(self, grace_seconds: float) -> bool:
        """Stop the containers while another worker owns the segment already. Return False without effect.

        A container that ignores SIGTERM would keep the others of its segment down for its whole grace period.
        """
        seconds = await self._while_leased(
            self._promised(grace_seconds), "promise the ends of containers of segment", _PROMISE_SECONDS
        )
        if seconds is None or self._keeping.done():
            return False
        await self._end_keeping()
        resting = self._rest(grace_seconds)
        try:
            await self._write_ceded(seconds)
            self._ceded()
            # Their last deadline ends them also when the engine does not.
            await asyncio.wait([resting], timeout=seconds + _AFTER_DEADLINE_SECONDS)
        finally:
            await _cancel(resting)
        # Free also for workers of older versions, unless it has been acquired.
        await release_once(self._leases, self._owned)
        return True

    async def _promised(self, grace_seconds: float) -> float | None:
        """Return within which time all containers are gone, under any owner; None when that is unknown."""
        if self._environment.engine_lost or not await self._work.end(_END_OF_RUN_SECONDS):
            return None
        try:
            return await self._handler.promise_ends(self._owned, grace_seconds)
        except Exception as error:  # noqa: BLE001 - the lease is kept until they have ended, as without a promise
            log.warning("segment kept until its containers end", segment=self._owned.segment_id, reason=str(error))
            return None

    async def _write_ceded(self, seconds: float) -> None:
        """Let others acquire the lease. If that fails, they do when it has expired."""
        owned = self._owned
        while owned.proven(margin_seconds=0.0):
            try:
                await self._leases.cede(owned.lease, seconds + 1.0, timeout_seconds=_ATTEMPT_SECONDS)
            except LeaseLost as lost:
                log.warning("lease not ceded", segment=owned.segment_id, reason=str(lost))
                return
            except RuntimeFault as fault:
                log.warning("lease not ceded; trying again", segment=owned.segment_id, reason=str(fault))
                await asyncio.sleep(self._timing.retry_seconds)
            else:
                log.info("segment ceded", segment=owned.segment_id, epoch=owned.epoch, within_seconds=seconds)
                return

    # --- after the containers have stopped

    async def _stop_and_release(self, grace_seconds: float) -> None:
        resting = self._rest(grace_seconds)
        try:
            while not resting.done() and not self._keeping.done():
                limit = _LOST_ENGINE_SECONDS if self._environment.engine_lost else None
                await asyncio.wait([resting, self._keeping], return_when=asyncio.FIRST_COMPLETED, timeout=limit or 1.0)
                if limit is not None and not resting.done():
                    await self._let_run_out(resting)
        finally:
            await _cancel(resting)
        if not resting.done() or resting.cancelled():
            return
        resting.result()
        await self._end_keeping()
        await release(self._leases, self._owned, self._timing)

    async def _let_run_out(self, resting: "asyncio.Task[None]") -> None:
        """Let keepalive and lease expire: the engine cannot confirm that the containers ended."""
        owned = self._owned
        log.warning("lease not released because the engine does not answer; it expires", segment=owned.segment_id)
        await self._end_keeping()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.attempt_seconds):
                await self._handler.expire(owned)
        await asyncio.wait([resting], timeout=max(0.0, owned.proven_seconds()))

    # --- tasks

    def _rest(self, grace_seconds: float) -> "asyncio.Task[None]":
        return asyncio.create_task(
            self._work.come_to_rest(_END_OF_RUN_SECONDS, grace_seconds),
            name=f"stop the containers of segment {self._owned.segment_id}",
        )

    async def _end_keeping(self) -> None:
        self._keeping.cancel()
        await asyncio.wait([self._keeping])

    async def _while_leased(
        self, work: Coroutine[Any, Any, _Result], name: str, limit_seconds: float | None = None
    ) -> _Result | None:
        """Return the result of *work*; None if the lease ends before, or after *limit_seconds*."""
        task = asyncio.create_task(work, name=f"{name} {self._owned.segment_id}")
        try:
            await asyncio.wait([task, self._keeping], return_when=asyncio.FIRST_COMPLETED, timeout=limit_seconds)
        finally:
            await _cancel(task)
        return task.result() if task.done() and not task.cancelled() else None


async def release(leases: LeaseStore, owned: OwnedSegment, timing: LeaseTiming) -> None:
    """Release the lease, or let it expire if that fails until then."""
    while owned.proven(margin_seconds=0.0):
        if await release_once(leases, owned):
            log.info("segment released", segment=owned.segment_id, epoch=owned.epoch)
            return
        await asyncio.sleep(timing.retry_seconds)
    log.warning("lease not released; it expires", segment=owned.segment_id, epoch=owned.epoch)


async def release_once(leases: LeaseStore, owned: OwnedSegment) -> bool:
    """Release the lease; return whether MongoDB has confirmed it."""
    try:
        await leases.release(owned.lease, timeout_seconds=_ATTEMPT_SECONDS)
    except RuntimeFault as fault:
        log.warning("lease not released", segment=owned.segment_id, reason=str(fault))
        return False
    return True


async def _cancel(task: "asyncio.Task[Any]") -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_SECONDS)
