"""The bot-runner's worker: keeps the bots of one segment running.

Top down: `DockerSegmentHandler` owns a segment, `SegmentReconciler` goes round it, `plan` decides, `VersionChecks`
checks new versions before they replace what runs, `BotActions` acts, and `BotRecords` writes down what came of it.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from libs.core.aio.retrying import retry_forever
from libs.core.events.wakeups import WakeUps
from libs.core.process.process import run_process
from libs.core.process.service import BOT_RUNNER
from libs.core.store.entities import Entity, EntityStore
from libs.core.store.owner_quotas import OwnerQuotas
from libs.core.store.releases import effective
from libs.core.store.revisions import RevisionStore
from libs.core.worker.api import UsageView
from libs.core.worker.handler import OwnedSegment
from libs.core.worker.role import WorkerBackend, WorkerContext, WorkerRole
from libs.docker_runner.code.definition import ExecutableBuilder
from libs.docker_runner.containers.container_group import ContainerGroup
from libs.docker_runner.engine.room import Priority
from libs.docker_runner.engine.room_view import EngineRoom
from libs.docker_runner.executable import Entrypoint
from libs.docker_runner.worker.handler import DockerSegmentHandler
from libs.docker_runner.worker.opening import engine_folders, engine_view, open_docker_host, open_queries
from libs.notifications.wiring import notifier_of
from services.bot_runner.bot_actions import BotActions
from services.bot_runner.checks import Checker, VersionChecks
from services.bot_runner.desired import DesiredState
from services.bot_runner.metrics import BotsCollector
from services.bot_runner.moving import BotMover
from services.bot_runner.notices import BotNotices
from services.bot_runner.reconciler import SegmentReconciler
from services.bot_runner.records import BotRecords
from services.bot_runner.restart_memory import RestartMemory
from services.bot_runner.restarts import RestartPolicy
from services.bot_runner.revision_log import RevisionLog
from services.bot_runner.standbys import StandbyEngine


def main(flags: Mapping[str, object]) -> int:
    """Run until stopped; *flags* by their command-line names. Return the exit code."""
    return run_process(BOT_RUNNER, WorkerRole(prepare), flags)


async def prepare(context: WorkerContext) -> WorkerBackend:
    """Connect to the engine and the storage, and create the backend."""
    settings = context.settings
    docker = await open_docker_host(context, priority=Priority.BOT)
    notifier = await notifier_of(context)
    revisions = RevisionStore(context.process.database)
    await retry_forever(revisions.ensure_indexes)

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

    async def deployed(bot_id: str) -> Entity | None:
        found = await context.entities.may_run(bot_id)
        return effective(found) if found is not None else None

    def reconciler(owned: OwnedSegment) -> SegmentReconciler:
        return segment_reconciler(
            owned,
            runner=docker.runner,
            room=docker.runner.room,
            containers=docker.group(owned.segment_id, owned.epoch),
            executables=docker.executables(Entrypoint.BOT, owned.segment_id, owned.epoch, answers_queries=True),
            entities=context.entities,
            records=records(owned),
            revisions=RevisionLog(revisions, settings.secrets.owner_field),
            notices=BotNotices(notifier, context.leases.now),
            quotas=context.quotas,
            window_seconds=settings.containers.health_window_seconds,
            stop_grace_seconds=settings.containers.stop_grace_seconds,
            wake_ups=context.wake_ups,
            scan_interval_seconds=settings.scan.scan_interval_seconds,
            # A pod gets its name when it is created, and keeps it.
            standby_updates=settings.containers.standby_updates and settings.pods.engine == "docker",
            clock=context.leases.now,
        )

    handler = DockerSegmentHandler(
        docker,
        work=reconciler,
        waking=context.wake_ups.waking,
        at_rest=lambda owned, ended: records(owned).segment_ended(ended),
        # A pod's bot ends before its segment is given away: what it was granted bounds the next owner's wait.
        promises=records if settings.pods.engine == "docker" else None,
    )
    metrics = docker.metrics()
    if settings.metrics.per_bot:
        metrics = [*metrics, BotsCollector(lambda: handler.works, docker.runner.usage)]

    def usage(bot_id: str) -> UsageView | None:
        found = next((one for one in docker.runner.usage.latest if one.container.id == bot_id), None)
        if found is None:
            return None
        stats = found.stats
        return UsageView(found.cpus, stats.cpu_seconds, stats.memory_bytes, stats.memory_limit_bytes, stats.pids)

    return WorkerBackend(
        handler,
        docker.engine_id,
        engine_view(docker),
        docker.log_reader,
        entities=handler.states,
        folders=engine_folders(docker),
        metrics=metrics,
        at_exit=docker.logs.finished,
        answerer=open_queries(context, docker, deployed, runs_beside=True).answer,
        usage=usage,
    )


class BotEngine(StandbyEngine, Checker, Protocol):
    """The operations on the Docker engine: starts and stops, standbys, and checks of versions."""


def segment_reconciler(
    owned: OwnedSegment,
    *,
    runner: BotEngine,
    room: EngineRoom,
    containers: ContainerGroup,
    executables: ExecutableBuilder,
    entities: EntityStore,
    records: BotRecords,
    revisions: RevisionLog,
    notices: BotNotices,
    quotas: OwnerQuotas,
    wake_ups: WakeUps,
    window_seconds: float,
    stop_grace_seconds: float,
    scan_interval_seconds: float,
    clock: Callable[[], float],
    standby_updates: bool = False,
    policy: RestartPolicy | None = None,
) -> SegmentReconciler:
    """Wire the work of one owned segment; *clock* is MongoDB's time."""
    memory = RestartMemory()
    return SegmentReconciler(
        owned,
        entities=entities,
        desired_state=DesiredState(executables=executables, memory=memory, window_seconds=window_seconds),
        containers=containers,
        actions=BotActions(
            owned,
            runner=runner,
            records=records,
            memory=memory,
            notices=notices,
            quotas=quotas,
            mover=BotMover(owned, entities=entities, records=records, wake_ups=wake_ups),
            stop_grace_seconds=stop_grace_seconds,
            standby_updates=standby_updates,
            policy=policy,
            clock=clock,
        ),
        records=records,
        revisions=revisions,
        checks=VersionChecks(runner=runner, quotas=quotas, memory=memory, wake=owned.wake, clock=clock),
        room=room,
        wake_ups=wake_ups,
        scan_interval_seconds=scan_interval_seconds,
        clock=clock,
    )
