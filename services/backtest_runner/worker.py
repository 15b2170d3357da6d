"""The backtest-runner's worker: runs the backtests of one segment, each once.

Top down: `DockerSegmentHandler` owns a segment, `SegmentPool` fills its slots, `BacktestRun` runs one backtest to its
end, `Claims` and `verdict` decide who runs it and its outcome, and `Completion` publishes the outcome.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from libs.core.config.coordination_settings import BatchSettings
from libs.core.events.publisher import OutboxPublisher
from libs.core.process.process import run_process
from libs.core.process.service import BACKTEST_RUNNER
from libs.core.room import MIB
from libs.core.store.entities import EntityStore
from libs.core.store.outbox import Outbox
from libs.core.store.owner_quotas import OwnerQuotas
from libs.core.store.runs import RunStore
from libs.core.worker.handler import OwnedSegment
from libs.core.worker.role import WorkerBackend, WorkerContext, WorkerRole, WorkerSettings
from libs.docker_runner.code.definition import ExecutableBuilder
from libs.docker_runner.containers.container import Ended, ManagedContainer
from libs.docker_runner.containers.run_records import Recorder
from libs.docker_runner.engine.room import Priority
from libs.docker_runner.executable import Entrypoint
from libs.docker_runner.runs.run_engine import AttemptEngine
from libs.docker_runner.settings import RunnerSettings
from libs.docker_runner.worker.docker_host import DockerHost
from libs.docker_runner.worker.from_settings import runner_settings
from libs.docker_runner.worker.handler import DockerSegmentHandler
from libs.docker_runner.worker.opening import engine_folders, engine_view, open_docker_host
from libs.notifications.wiring import notifier_of
from services.backtest_runner.attempt import CANCEL_GRACE_SECONDS, BacktestKit
from services.backtest_runner.claims import Claims
from services.backtest_runner.completion import Completion
from services.backtest_runner.metrics import QueueCollector
from services.backtest_runner.output import BacktestOutput
from services.backtest_runner.pool import SegmentPool
from services.backtest_runner.records import RunRecords
from services.backtest_runner.result_spool import ResultSpool
from services.backtest_runner.slots import Slots
from services.backtest_runner.state import keeps_place

RESULT_BYTES = 64 * MIB
"""The limit of a backtest's result unless BOT_RESULT_MB is set: higher than a bot's: the result is its purpose."""


@dataclass(frozen=True)
class BacktestWorkerSettings(WorkerSettings):
    """The settings of a worker of this service."""

    batch: BatchSettings


class BacktestWorkerRole(WorkerRole):
    """A worker with the settings of batches."""

    settings: type[WorkerSettings] = BacktestWorkerSettings


def main(flags: Mapping[str, object]) -> int:
    """Run until stopped; *flags* by their command-line names. Return the exit code."""
    return run_process(BACKTEST_RUNNER, BacktestWorkerRole(prepare, keeps_place=keeps_place), flags)


async def prepare(context: WorkerContext) -> WorkerBackend:
    """Connect to the engine and the storage, and create the backend."""
    settings = cast(BacktestWorkerSettings, context.settings)
    docker = await open_docker_host(
        context, _with_large_results(settings), priority=Priority.BACKTEST, keeps_state=False
    )
    spool = ResultSpool(settings.containers.temp_dir / "backtests")
    await asyncio.to_thread(spool.open)
    completion = await _completion(context, docker)

    slots = Slots(settings.batch.batch_size)

    def pool(owned: OwnedSegment) -> SegmentPool:
        return segment_pool(
            owned,
            docker.recorder,
            engine=docker.runner,
            containers=docker.group(owned.segment_id, owned.epoch).list,
            executables=docker.executables(Entrypoint.BACKTEST, owned.segment_id, owned.epoch),
            entities=context.entities,
            runs=context.runs,
            quotas=context.quotas,
            spool=spool,
            completion=completion,
            slots=slots,
            timeout_seconds=settings.batch.timeout_seconds,
            result_bytes=docker.settings.limits.result_bytes,
            max_retries=settings.batch.max_retries,
            stop_grace_seconds=min(settings.containers.stop_grace_seconds, CANCEL_GRACE_SECONDS),
            scan_interval_seconds=settings.batch.interval_seconds,
        )

    async def at_rest(owned: OwnedSegment, _: Sequence[Ended]) -> None:
        # Active attempts are left to the next owner, and do not count.
        await Claims(docker.recorder, epoch=owned.epoch, entities=context.entities).release_all(owned.segment_id)

    handler = DockerSegmentHandler(
        docker,
        work=pool,
        waking=context.wake_ups.waking,
        at_rest=at_rest,
        keeps_logs=False,
    )
    return WorkerBackend(
        handler,
        docker.engine_id,
        engine_view(docker),
        _output(context, docker),
        entities=handler.states,
        folders=engine_folders(docker),
        metrics=[*docker.metrics(), QueueCollector(lambda: handler.works)],
    )


def segment_pool(
    owned: OwnedSegment,
    recorder: Recorder,
    *,
    engine: AttemptEngine,
    containers: Callable[[], Awaitable[list[ManagedContainer]]],
    executables: ExecutableBuilder,
    entities: EntityStore,
    runs: RunStore,
    quotas: OwnerQuotas,
    spool: ResultSpool,
    completion: Completion,
    slots: Slots,
    timeout_seconds: float,
    result_bytes: int,
    max_retries: int,
    stop_grace_seconds: float,
    scan_interval_seconds: float,
) -> SegmentPool:
    """Wire the work of one owned segment."""
    kit = BacktestKit(
        owned=owned,
        engine=engine,
        proven=owned.proven,
        containers=containers,
        executables=executables,
        claims=Claims(recorder, epoch=owned.epoch, entities=entities),
        quotas=quotas,
        records=RunRecords(recorder, segment_id=owned.segment_id, epoch=owned.epoch, runs=runs),
        spool=spool,
        completion=completion,
        timeout_seconds=timeout_seconds,
        result_bytes=result_bytes,
        max_retries=max_retries,
        stop_grace_seconds=stop_grace_seconds,
    )
    return SegmentPool(owned, kit=kit, entities=entities, slots=slots, scan_interval_seconds=scan_interval_seconds)


def _output(context: WorkerContext, docker: DockerHost) -> BacktestOutput:
    async def is_under_way(backtest_id: str) -> bool:
        return await context.entities.get(backtest_id) is not None

    return BacktestOutput(
        docker.runner,
        lambda: docker.runner.list(context.process.service.name, context.scope),
        is_under_way,
        docker.store,
        context.settings.storage.results_bucket,
    )


async def _completion(context: WorkerContext, docker: DockerHost) -> Completion:
    publisher = None
    if context.connection is not None:
        outbox = Outbox(context.process.database)
        await outbox.ensure_indexes()
        publisher = OutboxPublisher(outbox, context.connection)
        context.process.lifecycle.part("outbox", publisher.run)
    return Completion(
        entities=context.entities,
        store=docker.store,
        bucket=context.settings.storage.results_bucket,
        publisher=publisher,
        changes=context.wake_ups,
        notifier=await notifier_of(context),
    )


def _with_large_results(settings: BacktestWorkerSettings) -> RunnerSettings:
    runner = runner_settings(settings.containers, settings.maxima, settings.images, settings.secrets)
    limits = runner.limits
    result_bytes = limits.result_bytes if "result_mb" in settings.containers.model_fields_set else RESULT_BYTES
    # The result is also the last line of output, and must not be throttled like other output.
    burst_bytes = limits.output_burst_bytes + result_bytes
    return replace(runner, limits=replace(limits, result_bytes=result_bytes, output_burst_bytes=burst_bytes))
