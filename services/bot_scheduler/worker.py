"""The bot-scheduler's worker: runs the schedules of one segment on time.

Top down: `DockerSegmentHandler` owns a segment, `SegmentScheduler` keeps its due times, `decide` decides about
each, `ScheduleClaims` claims it in MongoDB, `ScheduledRun` carries it out, and `Takeover` continues the work of an
earlier owner of the segment.
"""

import time
from collections.abc import Mapping

from libs.core.process.process import run_process
from libs.core.process.service import BOT_SCHEDULER
from libs.core.worker.handler import OwnedSegment
from libs.core.worker.role import WorkerBackend, WorkerContext, WorkerRole
from libs.docker_runner.engine.room import Priority
from libs.docker_runner.executable import Entrypoint
from libs.docker_runner.worker.handler import DockerSegmentHandler
from libs.docker_runner.worker.opening import engine_folders, engine_view, open_docker_host
from services.bot_scheduler.closing import close_all
from services.bot_scheduler.records import RunRecords
from services.bot_scheduler.run import ScheduleKit
from services.bot_scheduler.schedule_claims import ScheduleClaims
from services.bot_scheduler.scheduler import SegmentScheduler
from services.bot_scheduler.takeover import Takeover
from services.bot_scheduler.upkeep import derive_next


def main(flags: Mapping[str, object]) -> int:
    """Run until stopped; *flags* by their command-line names. Return the exit code."""
    return run_process(BOT_SCHEDULER, WorkerRole(prepare, derive=derive_next), flags)


async def prepare(context: WorkerContext) -> WorkerBackend:
    """Connect to the engine and the storage, and create the backend."""
    settings = context.settings
    docker = await open_docker_host(context, priority=Priority.SCHEDULE)

    def kit(owned: OwnedSegment) -> ScheduleKit:
        segment, epoch = owned.segment_id, owned.epoch
        return ScheduleKit(
            owned=owned,
            engine=docker.runner,
            proven=owned.proven,
            containers=docker.group(segment, epoch).list,
            claims=ScheduleClaims(docker.recorder, epoch=epoch, entities=context.entities),
            records=RunRecords(
                docker.recorder,
                segment_id=segment,
                epoch=epoch,
                runs=context.runs,
                leases=context.leases,
                output=docker.logs.following,
            ),
            executables=docker.executables(Entrypoint.BOT, segment, epoch),
            stop_grace_seconds=settings.containers.stop_grace_seconds,
            clock=context.leases.now,
            engine_clock=time.time,
        )

    def scheduler(owned: OwnedSegment) -> SegmentScheduler:
        shared = kit(owned)
        return SegmentScheduler(
            owned,
            kit=shared,
            takeover=Takeover(shared, host=docker.engine_id),
            scan_interval_seconds=settings.scan.scan_interval_seconds,
            clock=context.leases.now,
        )

    handler = DockerSegmentHandler(
        docker,
        work=scheduler,
        waking=context.wake_ups.waking,
        at_rest=lambda owned, ended: close_all(kit(owned), ended),
    )
    return WorkerBackend(
        handler,
        docker.engine_id,
        engine_view(docker),
        docker.log_reader,
        entities=handler.states,
        folders=engine_folders(docker),
        metrics=docker.metrics(),
        at_exit=docker.logs.finished,
    )
