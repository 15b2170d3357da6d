"""The bot-scheduler's worker: runs the schedules of one segment on time.

Top down: `DockerSegmentHandler` owns a segment, `SegmentScheduler` keeps its due times, `decide` decides about
each, `ScheduleClaims` claims it in MongoDB, `ScheduledRun` carries it out, and `Takeover` continues the work of an
earlier owner of the segment.
"""

import time
from collections.abc import Awaitable, Callable, Mapping

from libs.core.events.wakeups import WakeUps
from libs.core.process.process import run_process
from libs.core.process.service import BOT_SCHEDULER
from libs.core.store.entities import EntityStore
from libs.core.store.leases import LeaseStore
from libs.core.store.owner_quotas import OwnerQuotas
from libs.core.store.runs import RunStore
from libs.core.worker.handler import OwnedSegment
from libs.core.worker.role import WorkerBackend, WorkerContext, WorkerRole
from libs.docker_runner.code.definition import ExecutableBuilder
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.containers.run_records import Recorder
from libs.docker_runner.engine.room import Priority
from libs.docker_runner.executable import Entrypoint
from libs.docker_runner.runs.run_engine import AttemptEngine
from libs.docker_runner.worker.handler import DockerSegmentHandler
from libs.docker_runner.worker.opening import engine_folders, engine_view, open_docker_host, open_queries
from libs.notifications.event import NoticeQueue
from libs.notifications.wiring import notifier_of
from services.bot_scheduler.attempt import ScheduleKit
from services.bot_scheduler.closing import close_all
from services.bot_scheduler.records import Output, RunRecords
from services.bot_scheduler.schedule_claims import ScheduleClaims
from services.bot_scheduler.scheduler import SegmentScheduler
from services.bot_scheduler.state import keeps_place
from services.bot_scheduler.takeover import Takeover
from services.bot_scheduler.upkeep import derive_next


def main(flags: Mapping[str, object]) -> int:
    """Run until stopped; *flags* by their command-line names. Return the exit code."""
    return run_process(BOT_SCHEDULER, WorkerRole(prepare, derive=derive_next, keeps_place=keeps_place), flags)


async def prepare(context: WorkerContext) -> WorkerBackend:
    """Connect to the engine and the storage, and create the backend."""
    settings = context.settings
    docker = await open_docker_host(context, priority=Priority.SCHEDULE)
    notifier = await notifier_of(context)

    def kit(owned: OwnedSegment) -> ScheduleKit:
        return segment_kit(
            owned,
            docker.recorder,
            engine=docker.runner,
            containers=docker.group(owned.segment_id, owned.epoch).list,
            executables=docker.executables(Entrypoint.BOT, owned.segment_id, owned.epoch),
            entities=context.entities,
            runs=context.runs,
            leases=context.leases,
            quotas=context.quotas,
            output=docker.logs.following,
            notifier=notifier,
            stop_grace_seconds=settings.containers.stop_grace_seconds,
            clock=context.leases.now,
            engine_clock=time.time,
        )

    def scheduler(owned: OwnedSegment) -> SegmentScheduler:
        return segment_scheduler(
            kit(owned), docker.engine_id, settings.scan.scan_interval_seconds, wake_ups=context.wake_ups
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
        answerer=open_queries(context, docker, context.entities.may_run, runs_beside=False).answer,
    )


def segment_kit(
    owned: OwnedSegment,
    recorder: Recorder,
    *,
    engine: AttemptEngine,
    containers: Callable[[], Awaitable[list[ManagedContainer]]],
    executables: ExecutableBuilder,
    entities: EntityStore,
    runs: RunStore,
    leases: LeaseStore,
    quotas: OwnerQuotas,
    output: Output,
    notifier: NoticeQueue,
    stop_grace_seconds: float,
    clock: Callable[[], float],
    engine_clock: Callable[[], float],
) -> ScheduleKit:
    """Wire what the runs of one owned segment share; *clock* is MongoDB's time."""
    segment, epoch = owned.segment_id, owned.epoch
    records = RunRecords(
        recorder,
        segment_id=segment,
        epoch=epoch,
        runs=runs,
        leases=leases,
        output=output,
        notifier=notifier,
    )
    return ScheduleKit(
        owned=owned,
        engine=engine,
        proven=owned.proven,
        containers=containers,
        claims=ScheduleClaims(recorder, epoch=epoch, entities=entities),
        records=records,
        executables=executables,
        quotas=quotas,
        stop_grace_seconds=stop_grace_seconds,
        clock=clock,
        engine_clock=engine_clock,
    )


def segment_scheduler(
    kit: ScheduleKit, engine_id: str, scan_interval_seconds: float, *, wake_ups: WakeUps
) -> SegmentScheduler:
    """Wire the work of one owned segment."""
    return SegmentScheduler(
        kit,
        takeover=Takeover(kit, host=engine_id),
        wake_ups=wake_ups,
        scan_interval_seconds=scan_interval_seconds,
    )
