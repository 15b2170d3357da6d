"""The work of one owned segment: keep its bots running while it is owned, end them all when it no longer is."""

import asyncio
from collections.abc import Callable

from libs.core.lease import Lease
from libs.core.log import get_logger
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.container_events import EventKind
from libs.docker_runner.docker_host import DockerHost
from services.bot_runner.reconciler import SegmentReconciler
from services.bot_runner.records import BotRecords

log = get_logger(__name__)


class BotSegmentHandler:
    """A `SegmentHandler` for bots.

    Args:
        records: where the ends of bots are written down.
        reconciler: makes what keeps an owned segment's containers as its bots say.
    """

    def __init__(
        self,
        docker: DockerHost,
        *,
        records: Callable[[OwnedSegment], BotRecords],
        reconciler: Callable[[OwnedSegment, BotRecords], SegmentReconciler],
    ) -> None:
        self._docker = docker
        self._make_records = records
        self._make_reconciler = reconciler
        self._reconciler: SegmentReconciler | None = None

    async def run(self, owned: OwnedSegment) -> None:
        """Reconcile until cancelled; the end of a container wakes the next round within milliseconds."""
        self._reconciler = self._make_reconciler(owned, self._make_records(owned))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(owned), name="container events")
                tasks.create_task(self._reconciler.run(), name="reconciler")
        finally:
            self._reconciler = None

    def renewed(self, lease: Lease) -> None:
        """Let the containers of the segment live on for as long as the lease is proven."""
        self._docker.keepalive(lease.segment_id).refresh(lease.proven_until)

    async def stop_all(self, owned: OwnedSegment, grace_seconds: float) -> None:
        """End every container of the segment, let none begin late, and write down how each ended."""
        group = self._docker.group(owned.segment_id, owned.epoch)
        if not owned.proven(margin_seconds=0.0):
            self._docker.keepalive(owned.segment_id).expire()
        stopped = await group.stop_all(grace_seconds)
        self._docker.keepalive(owned.segment_id).expire()
        log.info("segment is at rest", segment=owned.segment_id, stopped=len(stopped))
        if owned.proven():
            records = self._make_records(owned)
            await asyncio.gather(*(records.last_words(container) for container in await group.list()))
            await records.all_ended(await group.remove_all(), "stopped")
            await self._docker.logs.flush()

    def running(self) -> int:
        """How many bots of this worker have a container."""
        return self._reconciler.running if self._reconciler is not None else 0

    async def _watch(self, owned: OwnedSegment) -> None:
        async for event in self._docker.events():
            if event.kind is not EventKind.STARTED and event.segment in (owned.segment_id, -1):
                owned.wake.set()
