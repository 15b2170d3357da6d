"""The work of one owned segment: keep its bots running while it is owned, end them all when it no longer is."""

import asyncio
from collections.abc import Callable

from libs.core.log import get_logger

from libs.core.store.leases import Lease
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.container_events import EventKind
from libs.docker_runner.container_group import ContainerGroup
from libs.docker_runner.keepalive import KeepaliveFile
from libs.docker_runner.runner import DockerRunner
from services.bot_runner.reconciler import SegmentReconciler
from services.bot_runner.records import BotRecords

log = get_logger(__name__)


class BotSegmentHandler:
    """A `SegmentHandler` for bots.

    Args:
        keepalive: the dead-man's switch of a segment, by its number.
        group: the containers of an owned segment.
        reconciler: what keeps an owned segment's containers as its bots say.
    """

    def __init__(
        self,
        *,
        runner: DockerRunner,
        service: str,
        scope: str,
        records: BotRecords,
        keepalive: Callable[[int], KeepaliveFile],
        group: Callable[[OwnedSegment], ContainerGroup],
        reconciler: Callable[[OwnedSegment, ContainerGroup], SegmentReconciler],
    ) -> None:
        self._runner = runner
        self._service = service
        self._scope = scope
        self._records = records
        self._keepalive = keepalive
        self._group = group
        self._reconciler = reconciler
        self._running = 0

    async def run(self, owned: OwnedSegment) -> None:
        """Reconcile until cancelled; the end of a container wakes the next round within milliseconds."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(owned), name="container events")
            tasks.create_task(self._reconciler(owned, self._group(owned)).run(), name="reconciler")

    def renewed(self, lease: Lease) -> None:
        """Let the containers of the segment live on for as long as the lease is proven."""
        self._keepalive(lease.segment_id).refresh(lease.proven_until)

    async def stop_all(self, owned: OwnedSegment, grace_seconds: float) -> None:
        """End every container of the segment, record how each ended, and let none start late."""
        group = self._group(owned)
        ended = await group.stop_all(grace_seconds)
        self._keepalive(owned.segment_id).expire()
        await self._records.all_ended(ended)

    def running(self) -> int:
        """How many bots of this worker have a container."""
        return self._records.running

    async def _watch(self, owned: OwnedSegment) -> None:
        async for event in self._runner.events(self._service, self._scope):
            if event.kind is not EventKind.STARTED and event.segment in (owned.segment_id, -1):
                owned.wake.set()
