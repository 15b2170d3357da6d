"""The bot-scheduler's worker: runs the schedules of one segment on time.

Top down: `ScheduleSegmentHandler` owns a segment, `SegmentScheduler` keeps its due times, `decide` says what becomes
of each, `Books` claims it in MongoDB, `ScheduledRun` carries it out, and `Inheritance` finishes what others began.
"""

from collections.abc import Mapping

from libs.core.process import run_process
from libs.core.service import BOT_SCHEDULER
from libs.core.worker.handler import OwnedSegment
from libs.core.worker.role import WorkerContext, WorkerRole, Workplace
from libs.docker_runner.definition import ExecutableFactory
from libs.docker_runner.docker_host import DockerHost
from libs.docker_runner.executable import MIB, Entrypoint
from libs.docker_runner.from_settings import runner_settings
from services.bot_scheduler.books import Books
from services.bot_scheduler.handler import ScheduleSegmentHandler
from services.bot_scheduler.inheritance import Inheritance
from services.bot_scheduler.records import Recorder, RunRecords, write_down
from services.bot_scheduler.run import RunKit
from services.bot_scheduler.scheduler import SegmentScheduler
from services.bot_scheduler.upkeep import derive_next
from services.bot_scheduler.workshop import Workshop


def main(flags: Mapping[str, object]) -> int:
    """Run until told to stop; *flags* by their command-line names. Returns the exit code."""
    return run_process(BOT_SCHEDULER, WorkerRole(prepare, derive=derive_next()), flags)


async def prepare(context: WorkerContext) -> Workplace:
    """Connect to the engine and the storage, and wire what fires schedules."""
    settings, service = context.settings, context.process.service.name
    docker = await DockerHost.open(
        context.process.lifecycle,
        context.process.readiness,
        settings=runner_settings(settings.containers, settings.maxima, settings.images),
        storage=settings.storage,
        code_cache_bytes=settings.containers.code_cache_mb * MIB,
        lease_seconds=settings.lease.life_seconds,
        service=service,
        scope=context.scope,
        owns=context.owns,
        on_buried=lambda ended: write_down(context.runs, recorder, ended),
    )
    recorder = Recorder(settings.identity.worker_id, docker.engine_id)
    factory = ExecutableFactory(docker.settings, service=service, scope=context.scope, entrypoint=Entrypoint.BOT)

    def kit(owned: OwnedSegment) -> RunKit:
        containers = docker.group(owned.segment_id, owned.epoch)
        return RunKit(
            owned=owned,
            runner=docker.runner,
            containers=containers.list,
            books=Books(recorder, epoch=owned.epoch, entities=context.entities),
            records=RunRecords(
                recorder, segment_id=owned.segment_id, epoch=owned.epoch, runs=context.runs, output=docker.logs
            ),
            workshop=Workshop(
                owned,
                factory=factory,
                code_bucket=settings.storage.code_bucket,
                keepalive=containers.keepalive_folder,
                worker=recorder.worker,
            ),
            stop_grace_seconds=settings.containers.stop_grace_seconds,
        )

    def scheduler(owned: OwnedSegment, kit: RunKit) -> SegmentScheduler:
        return SegmentScheduler(
            owned,
            kit=kit,
            inheritance=Inheritance(kit, host=docker.engine_id),
            scan_interval_seconds=settings.scan.scan_interval_seconds,
        )

    return Workplace(ScheduleSegmentHandler(docker, kit=kit, scheduler=scheduler), docker.engine_id, docker.impediment)
