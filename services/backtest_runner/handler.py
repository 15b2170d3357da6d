"""The work of one owned segment: run its backtests while it is owned, end their containers when it no longer is."""

import asyncio
from collections.abc import Callable

from libs.core.errors import Retryable
from libs.core.lease import Lease
from libs.core.log import get_logger
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.container_events import EventKind
from libs.docker_runner.docker_host import DockerHost
from services.backtest_runner.claims import Claims
from services.backtest_runner.pool import SegmentPool

log = get_logger(__name__)


class BacktestSegmentHandler:
    """A `SegmentHandler` for backtests.

    Args:
        claims: makes what writes an owned segment's claims.
        pool: makes what runs an owned segment's backtests.
    """

    def __init__(
        self,
        docker: DockerHost,
        *,
        claims: Callable[[OwnedSegment], Claims],
        pool: Callable[[OwnedSegment], SegmentPool],
    ) -> None:
        self._docker = docker
        self._make_claims = claims
        self._make_pool = pool
        self._pool: SegmentPool | None = None

    async def run(self, owned: OwnedSegment) -> None:
        """Run until cancelled."""
        pool = self._pool = self._make_pool(owned)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(), name="container events")
                tasks.create_task(pool.run(), name="pool")
        finally:
            self._pool = None

    def renewed(self, lease: Lease) -> None:
        """Let the containers of the segment live on for as long as the lease is proven."""
        self._docker.keepalive(lease.segment_id).refresh(lease.proven_until)

    async def stop_all(self, owned: OwnedSegment, grace_seconds: float) -> None:
        """End every container of the segment and let none begin late. What was under way is left to the next owner."""
        group = self._docker.group(owned.segment_id, owned.epoch)
        if not owned.proven(margin_seconds=0.0):
            self._docker.keepalive(owned.segment_id).expire()
        stopped = await group.stop_all(grace_seconds)
        self._docker.keepalive(owned.segment_id).expire()
        log.info("segment is at rest", segment=owned.segment_id, stopped=len(stopped))
        if owned.proven():
            await group.remove_all()
            try:
                await self._make_claims(owned).release_all(owned.segment_id)
            except Retryable as error:
                # The next owner then counts attempts that were none of their fault.
                log.warning("claims not released", reason=str(error))

    def running(self) -> int:
        """How many backtests of this worker have a container."""
        return self._pool.running if self._pool is not None else 0

    async def _watch(self) -> None:
        # Read for what the runner remembers of it: a container that died is dead at once, whatever the engine lists.
        async for event in self._docker.events():
            if event.kind is EventKind.RESYNC:
                log.debug("container events are followed")
