"""Supervise the two calls of a handler that must survive exceptions: restart run(), and repeat stop_all()."""

import asyncio
import time

from prometheus_client import Counter

from libs.core.aio.backoff import Backoff
from libs.core.observability.log import get_logger
from libs.core.worker.handler import OwnedSegment, SegmentHandler

log = get_logger(__name__)

FAILURES = Counter("runtime_handler_failures_total", "Calls of a segment's handler that failed.", ["call"])

_HEALTHY_SECONDS = 60.0
_STOP_EXTRA_SECONDS = 20.0


class HandlerRun:
    """A handler's run() in its own task, restarted with backoff whenever it fails."""

    def __init__(self, handler: SegmentHandler, owned: OwnedSegment) -> None:
        self._handler = handler
        self._owned = owned
        self._ending_since: float | None = None
        self.task = asyncio.create_task(self._again_and_again(), name=f"segment {owned.segment_id}")

    def cancel(self) -> None:
        """Cancel it, so that it starts nothing more; returns at once."""
        self.task.cancel()

    async def end(self, limit_seconds: float | None) -> bool:
        """Cancel it and wait until it has ended. Return whether it has.

        Args:
            limit_seconds: at most so long after the first call; None: no limit.
        """
        self.task.cancel()
        now = asyncio.get_running_loop().time()
        self._ending_since = now if self._ending_since is None else self._ending_since
        if limit_seconds is not None:
            limit_seconds = max(0.0, limit_seconds - (now - self._ending_since))
        await asyncio.wait([self.task], timeout=limit_seconds)
        if not self.task.done():
            log.error("the handler was cancelled and is restarted", segment=self._owned.segment_id)
        return self.task.done()

    async def come_to_rest(self, run_limit_seconds: float, grace_seconds: float) -> None:
        """End it and stop the segment's containers.

        Args:
            run_limit_seconds: how long it may take to end before the containers are stopped a first time.
            grace_seconds: from SIGTERM to SIGKILL.
        """
        ended = await self.end(run_limit_seconds)
        await stop_until_done(self._handler, self._owned, grace_seconds)
        if not ended:
            # The handler may have started containers in the meantime.
            await self.end(None)
            await stop_until_done(self._handler, self._owned, grace_seconds)

    async def _again_and_again(self) -> None:
        backoff = Backoff(initial_seconds=0.2, cap_seconds=10.0)
        while True:
            begun = time.monotonic()
            try:
                await self._handler.run(self._owned)
                log.error("the handler ended unexpectedly", segment=self._owned.segment_id)
            except Exception:
                log.exception("the handler failed", segment=self._owned.segment_id)
            FAILURES.labels("run").inc()
            if time.monotonic() - begun > _HEALTHY_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.next_seconds())


async def stop_until_done(handler: SegmentHandler, owned: OwnedSegment, grace_seconds: float) -> None:
    """Stop the segment's containers, repeatedly until the handler reports that none runs.

    A failed stop never counts as successful: the caller keeps the lease meanwhile.
    """
    backoff = Backoff(initial_seconds=0.1, cap_seconds=5.0)
    while True:
        try:
            async with asyncio.timeout(grace_seconds + _STOP_EXTRA_SECONDS):
                await handler.stop_all(owned, grace_seconds)
        except Exception:
            FAILURES.labels("stop").inc()
            log.exception("containers not stopped; retrying", segment=owned.segment_id, attempt=backoff.failures + 1)
            await asyncio.sleep(backoff.next_seconds())
        else:
            return
