"""The bot-runner's worker: keeps the bots of one segment running.

Top down: `BotSegmentHandler` owns a segment, `SegmentReconciler` goes round it, `plan` decides, `BotActions` acts, and
`BotRecords` writes down what came of it.
"""

from collections.abc import Mapping

from libs.core.process import run_process
from libs.core.service import BOT_RUNNER
from libs.core.worker.handler import OwnedSegment
from libs.core.worker.role import WorkerContext, WorkerRole, Workplace
from libs.docker_runner.definition import ExecutableFactory
from libs.docker_runner.docker_host import DockerHost
from libs.docker_runner.executable import MIB, Entrypoint
from libs.docker_runner.from_settings import runner_settings
from services.bot_runner.bot_actions import BotActions
from services.bot_runner.desired import Desires
from services.bot_runner.handler import BotSegmentHandler
from services.bot_runner.ledger import Ledger
from services.bot_runner.reconciler import SegmentReconciler
from services.bot_runner.records import BotRecords, Recorder, write_down


def main(flags: Mapping[str, object]) -> int:
    """Run until told to stop; *flags* by their command-line names. Returns the exit code."""
    return run_process(BOT_RUNNER, WorkerRole(prepare), flags)


async def prepare(context: WorkerContext) -> Workplace:
    """Connect to the engine and the storage, and wire what keeps bots running."""
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

    def records(owned: OwnedSegment) -> BotRecords:
        return BotRecords(
            recorder, entities=context.entities, runs=context.runs, leases=context.leases, logs=docker.logs
        )

    def reconciler(owned: OwnedSegment, records: BotRecords) -> SegmentReconciler:
        containers = docker.group(owned.segment_id, owned.epoch)
        ledger = Ledger()
        return SegmentReconciler(
            owned,
            entities=context.entities,
            desires=Desires(
                owned,
                factory=factory,
                ledger=ledger,
                code=docker.code,
                code_bucket=settings.storage.code_bucket,
                keepalive=containers.keepalive_folder,
                worker=recorder.worker,
            ),
            containers=containers,
            actions=BotActions(
                owned,
                runner=docker.runner,
                records=records,
                ledger=ledger,
                stop_grace_seconds=settings.containers.stop_grace_seconds,
            ),
            scan_interval_seconds=settings.scan.scan_interval_seconds,
        )

    return Workplace(
        BotSegmentHandler(docker, records=records, reconciler=reconciler), docker.engine_id, docker.impediment
    )
