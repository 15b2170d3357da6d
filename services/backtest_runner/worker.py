"""The backtest-runner's worker: runs the backtests of one segment, each once.

Top down: `BacktestSegmentHandler` owns a segment, `SegmentPool` fills its slots, `BacktestRun` carries one backtest
through, `Claims` and `verdict` say who runs it and what it came to, and `Completion` hands that over.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from libs.core.container_settings import ContainerSettings
from libs.core.events.publisher import OutboxPublisher
from libs.core.process import run_process
from libs.core.service import BACKTEST_RUNNER
from libs.core.settings import BatchSettings
from libs.core.store.outbox import Outbox
from libs.core.worker.handler import OwnedSegment
from libs.core.worker.role import WorkerContext, WorkerRole, WorkerSettings, Workplace
from libs.docker_runner.definition import Deployed, ExecutableFactory, Ownership
from libs.docker_runner.docker_host import DockerHost
from libs.docker_runner.executable import MIB, CodeRef, Entrypoint, Executable
from libs.docker_runner.from_settings import runner_settings
from libs.docker_runner.settings import RunnerSettings
from services.backtest_runner.claims import Claims
from services.backtest_runner.completion import Completion
from services.backtest_runner.handler import BacktestSegmentHandler
from services.backtest_runner.pool import SegmentPool
from services.backtest_runner.records import Recorder, RunRecords, write_down
from services.backtest_runner.run import RunKit
from services.backtest_runner.shelf import Shelf
from services.backtest_runner.state import BacktestState, Claim

RESULT_BYTES = 64 * MIB
"""What a backtest may return unless BOT_RESULT_MB is set: more than a bot, since a result is all that it is for."""


@dataclass(frozen=True)
class BacktestWorkerSettings(WorkerSettings):
    """What a worker of this service reads."""

    batch: BatchSettings


class BacktestWorkerRole(WorkerRole):
    """A worker with the settings of batches."""

    settings: type[WorkerSettings] = BacktestWorkerSettings


def main(flags: Mapping[str, object]) -> int:
    """Run until told to stop; *flags* by their command-line names. Returns the exit code."""
    return run_process(BACKTEST_RUNNER, BacktestWorkerRole(prepare), flags)


async def prepare(context: WorkerContext) -> Workplace:
    """Connect to the engine and the storage, and wire what runs backtests."""
    settings, service = context.settings, context.process.service.name
    batch = cast(BacktestWorkerSettings, settings).batch
    docker = await DockerHost.open(
        context.process.lifecycle,
        context.process.readiness,
        settings=_with_large_results(
            runner_settings(settings.containers, settings.maxima, settings.images), settings.containers
        ),
        storage=settings.storage,
        code_cache_bytes=settings.containers.code_cache_mb * MIB,
        lease_seconds=settings.lease.life_seconds,
        service=service,
        scope=context.scope,
        owns=context.owns,
        on_buried=lambda ended: write_down(context.runs, recorder, ended),
    )
    recorder = Recorder(settings.identity.worker_id, docker.engine_id)
    factory = ExecutableFactory(docker.settings, service=service, scope=context.scope, entrypoint=Entrypoint.BACKTEST)
    shelf = Shelf(settings.containers.temp_dir / "backtests")
    await asyncio.to_thread(shelf.open)
    completion = await _completion(context, docker)

    def build(owned: OwnedSegment, state: BacktestState, claim: Claim) -> Executable:
        entity, location = state.entity, state.entity.code
        deployed = Deployed(
            id=entity.id,
            revision=entity.revision,
            config=entity.config,
            custom_config=entity.bot,
            version=entity.version,
            code=CodeRef(location.bucket or settings.storage.code_bucket, location.key) if location else None,
            traceparent=entity.trace.get("traceparent"),
        )
        keepalive = docker.group(owned.segment_id, owned.epoch).keepalive_folder
        ownership = Ownership(owned.segment_id, owned.epoch, recorder.worker, keepalive)
        return replace(factory.build(deployed, ownership), run_id=claim.run_id)

    def claims(owned: OwnedSegment) -> Claims:
        return Claims(recorder, epoch=owned.epoch, entities=context.entities)

    def pool(owned: OwnedSegment) -> SegmentPool:
        kit = RunKit(
            owned=owned,
            runner=docker.runner,
            containers=docker.group(owned.segment_id, owned.epoch).list,
            build=build,
            claims=claims(owned),
            records=RunRecords(recorder, segment_id=owned.segment_id, epoch=owned.epoch, runs=context.runs),
            shelf=shelf,
            completion=completion,
            timeout_seconds=batch.timeout_seconds,
            max_retries=batch.max_retries,
            stop_grace_seconds=settings.containers.stop_grace_seconds,
        )
        return SegmentPool(
            owned,
            kit=kit,
            entities=context.entities,
            size=batch.batch_size,
            scan_interval_seconds=batch.interval_seconds,
        )

    return Workplace(BacktestSegmentHandler(docker, claims=claims, pool=pool), docker.engine_id, docker.impediment)


async def _completion(context: WorkerContext, docker: DockerHost) -> Completion:
    outbox = publisher = None
    if context.connection is not None:
        outbox = Outbox(context.process.database)
        await outbox.ensure_indexes()
        publisher = OutboxPublisher(outbox, context.connection)
        context.process.lifecycle.part("outbox", publisher.run)
    return Completion(
        entities=context.entities,
        store=docker.store,
        bucket=context.settings.storage.results_bucket,
        outbox=outbox,
        announce=publisher.wake.set if publisher is not None else lambda: None,
        tell=context.wake_ups,
    )


def _with_large_results(settings: RunnerSettings, containers: ContainerSettings) -> RunnerSettings:
    limits = settings.limits
    result_bytes = limits.result_bytes if "result_mb" in containers.model_fields_set else RESULT_BYTES
    # The result is the last line of output too, and is not to be slowed down as chatter would be.
    burst_bytes = limits.output_burst_bytes + result_bytes
    return replace(settings, limits=replace(limits, result_bytes=result_bytes, output_burst_bytes=burst_bytes))
