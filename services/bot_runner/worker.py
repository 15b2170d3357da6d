"""The bot-runner's worker: keeps the bots of one segment running.

Top down: `DockerSegmentHandler` owns a segment, `SegmentReconciler` goes round it, `plan` decides, `VersionChecks`
checks new versions before they replace what runs, `BotActions` acts, and `BotRecords` writes down what came of it.
"""

from collections.abc import Mapping

from libs.core.errors import UserError
from libs.core.process.process import run_process
from libs.core.process.service import BOT_RUNNER
from libs.core.worker.handler import OwnedSegment
from libs.core.worker.role import WorkerBackend, WorkerContext, WorkerRole
from libs.docker_runner.engine.room import Priority
from libs.docker_runner.executable import Entrypoint
from libs.docker_runner.worker.handler import DockerSegmentHandler
from libs.docker_runner.worker.opening import engine_folders, engine_view, open_docker_host
from services.bot_runner.bot_actions import BotActions
from services.bot_runner.checks import VersionChecks
from services.bot_runner.desired import DesiredState
from services.bot_runner.metrics import BotsCollector
from services.bot_runner.reconciler import SegmentReconciler
from services.bot_runner.records import BotRecords
from services.bot_runner.restart_memory import RestartMemory


def main(flags: Mapping[str, object]) -> int:
    """Run until stopped; *flags* by their command-line names. Return the exit code."""
    return run_process(BOT_RUNNER, WorkerRole(prepare), flags)


async def prepare(context: WorkerContext) -> WorkerBackend:
    """Connect to the engine and the storage, and create the backend."""
    settings = context.settings
    if settings.quotas.cpus and settings.containers.cpus is None:
        raise UserError("QUOTA_CPUS needs BOT_CPUS: a bot without a CPU limit may use all CPUs of its engine")
    docker = await open_docker_host(context, priority=Priority.BOT)

    def records(owned: OwnedSegment) -> BotRecords:
        return BotRecords(
            docker.recorder,
            segment_id=owned.segment_id,
            epoch=owned.epoch,
            entities=context.entities,
            runs=context.runs,
            leases=context.leases,
            logs=docker.logs.following,
        )

    def reconciler(owned: OwnedSegment) -> SegmentReconciler:
        memory, segment_records, clock = RestartMemory(), records(owned), context.leases.now
        return SegmentReconciler(
            owned,
            entities=context.entities,
            desired_state=DesiredState(
                executables=docker.executables(Entrypoint.BOT, owned.segment_id, owned.epoch),
                memory=memory,
                window_seconds=settings.containers.health_window_seconds,
            ),
            containers=docker.group(owned.segment_id, owned.epoch),
            actions=BotActions(
                owned,
                runner=docker.runner,
                records=segment_records,
                memory=memory,
                quotas=context.quotas,
                stop_grace_seconds=settings.containers.stop_grace_seconds,
                clock=clock,
            ),
            records=segment_records,
            checks=VersionChecks(
                runner=docker.runner, quotas=context.quotas, memory=memory, wake=owned.wake, clock=clock
            ),
            room=docker.runner.room,
            scan_interval_seconds=settings.scan.scan_interval_seconds,
            clock=clock,
        )

    handler = DockerSegmentHandler(
        docker,
        work=reconciler,
        waking=context.wake_ups.waking,
        at_rest=lambda owned, ended: records(owned).segment_ended(ended),
    )
    metrics = docker.metrics()
    if settings.metrics.per_bot:
        metrics = [*metrics, BotsCollector(lambda: handler.works, docker.runner.usage)]
    return WorkerBackend(
        handler,
        docker.engine_id,
        engine_view(docker),
        docker.log_reader,
        entities=handler.states,
        folders=engine_folders(docker),
        metrics=metrics,
        at_exit=docker.logs.finished,
    )
