"""The work of one owned segment: fire its schedules while it is owned, end their runs when it no longer is."""

import asyncio
from collections.abc import Callable, Sequence

from libs.core.errors import Retryable
from libs.core.lease import Lease
from libs.core.log import get_logger
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.container import Ended
from libs.docker_runner.container_events import EventKind
from libs.docker_runner.docker_host import DockerHost
from services.bot_scheduler.books import new_run_id
from services.bot_scheduler.ending import Ending, next_attempt, utc
from services.bot_scheduler.policy import Policy
from services.bot_scheduler.run import RunKit
from services.bot_scheduler.scheduler import SegmentScheduler
from services.bot_scheduler.state import ScheduleState

log = get_logger(__name__)


class ScheduleSegmentHandler:
    """A `SegmentHandler` for schedules.

    Args:
        kit: makes what the runs of an owned segment share.
        scheduler: makes what fires an owned segment's schedules.
    """

    def __init__(
        self,
        docker: DockerHost,
        *,
        kit: Callable[[OwnedSegment], RunKit],
        scheduler: Callable[[OwnedSegment, RunKit], SegmentScheduler],
    ) -> None:
        self._docker = docker
        self._make_kit = kit
        self._make_scheduler = scheduler
        self._scheduler: SegmentScheduler | None = None

    async def run(self, owned: OwnedSegment) -> None:
        """Fire until cancelled; the end of a container is noticed within milliseconds."""
        scheduler = self._scheduler = self._make_scheduler(owned, self._make_kit(owned))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(scheduler), name="container events")
                tasks.create_task(scheduler.run(), name="scheduler")
        finally:
            self._scheduler = None

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
            kit = self._make_kit(owned)
            await asyncio.gather(*(kit.records.output_read(container) for container in await group.list()))
            await close_all(kit, await group.remove_all())
            await self._docker.logs.flush()

    def running(self) -> int:
        """How many runs of this worker have a container."""
        return self._scheduler.running if self._scheduler is not None else 0

    async def _watch(self, scheduler: SegmentScheduler) -> None:
        async for event in self._docker.events():
            if event.kind is not EventKind.STARTED:
                scheduler.container_changed(event.id)


async def close_all(kit: RunKit, ended: Sequence[Ended]) -> None:
    """Write down runs that ended with their worker; what may be tried again is left to the next owner.

    What cannot be written is only logged: the segment must be given up, and the next owner finds out by itself.
    """
    try:
        entities = await kit.books.read([end.container.id for end in ended])
        states = {entity.id: ScheduleState.of(entity) for entity in entities}
        for end in ended:
            if (state := states.get(end.container.id)) is not None:
                await _close(kit, state, end)
    except Retryable as error:
        log.warning("ends of runs not recorded", reason=str(error))


async def _close(kit: RunKit, state: ScheduleState, ended: Ended) -> None:
    firing = state.firing
    if firing is None or firing.run_id != ended.container.run_id:
        return
    now = kit.clock()
    ending = Ending(str(ended.reason), ended.finished_at or utc(now), "", ended)
    policy = state.definition.policy if state.definition is not None else Policy()
    await kit.records.ended(state, firing, ending)
    await kit.books.close(state.id, firing, ending, next_attempt(firing, ending, policy, now, new_run_id()))
