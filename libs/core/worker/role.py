"""A worker process, the same for all three services except for the segment handler."""

import asyncio
import secrets
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from aiohttp import web
from prometheus_client.registry import Collector

from libs.core.aio.retrying import retry_forever
from libs.core.api.log_output import LogSource
from libs.core.config.connection_settings import NatsSettings, StorageSettings
from libs.core.config.container_settings import ContainerSettings, MaximaSettings
from libs.core.config.coordination_settings import CoordinationSettings, LeaseSettings, PartitionSettings, ScanSettings
from libs.core.config.image_settings import ImageSettings
from libs.core.config.notify_settings import NotifySettings
from libs.core.config.pod_settings import PodSettings
from libs.core.config.process_settings import MetricsSettings
from libs.core.config.query_settings import QuerySettings
from libs.core.config.quota_settings import QuotaSettings
from libs.core.config.retention_settings import HistorySettings
from libs.core.config.secret_settings import SecretSettings
from libs.core.config.transport_settings import TransportSettings
from libs.core.coordination import WorkerIdentity
from libs.core.errors import UserError
from libs.core.events.connection import NatsConnection
from libs.core.events.dead_letters import DeadLetters
from libs.core.events.ingestion import Ingestion
from libs.core.events.jetstream import JetStream
from libs.core.events.wakeups import WakeUps
from libs.core.leases.lease_keeper import LeaseTiming
from libs.core.observability.metrics import registry
from libs.core.process.presence import be_present, reachable_at
from libs.core.process.process import Process, ProcessSettings, runtime_version
from libs.core.queries.messages import Answerer
from libs.core.store.audit import AuditStore
from libs.core.store.bot_metrics import BotMetricsStore
from libs.core.store.deployment import deployment_id
from libs.core.store.entities import EntityStore
from libs.core.store.entity_views import EntityViews
from libs.core.store.entity_writer import Derive
from libs.core.store.failures import FailureStore
from libs.core.store.leases import LeaseStore
from libs.core.store.owner_quotas import KeepsPlace, OwnerQuotas, keeps_while_it_should_run, quota_of
from libs.core.store.partitions import PartitionStore
from libs.core.store.processes import KnownProcess, ProcessStore
from libs.core.store.runs import LiveRuns, RunStore
from libs.core.store.saved_states import SavedStateStore
from libs.core.transport.security import TransportSecurity
from libs.core.transport.worker_key import WorkerKey
from libs.core.worker.api import UsageOf, WorkerApi, no_usage
from libs.core.worker.handler import SegmentHandler
from libs.core.worker.metrics import WorkerCollector
from libs.core.worker.worker import EngineFolders, EngineView, Worker


@dataclass(frozen=True)
class WorkerSettings(ProcessSettings):
    """The settings of a worker."""

    nats: NatsSettings
    storage: StorageSettings
    lease: LeaseSettings
    coordination: CoordinationSettings
    transport: TransportSettings
    partitions: PartitionSettings
    containers: ContainerSettings
    maxima: MaximaSettings
    images: ImageSettings
    pods: PodSettings
    secrets: SecretSettings
    quotas: QuotaSettings
    scan: ScanSettings
    history: HistorySettings
    metrics: MetricsSettings
    notify: NotifySettings
    queries: QuerySettings


@dataclass(frozen=True)
class WorkerContext:
    """The parts from which a service builds its handler.

    Attributes:
        scope: the deployment's id, a label of its containers.
        owns: whether this worker owns a segment now, by a lease that it can prove.
    """

    process: Process
    settings: WorkerSettings
    scope: str
    entities: EntityStore
    runs: RunStore
    leases: LeaseStore
    bot_metrics: BotMetricsStore
    quotas: OwnerQuotas
    saved_states: SavedStateStore
    wake_ups: WakeUps
    connection: NatsConnection | None
    owns: Callable[[int], bool]


async def _nothing() -> None:
    return None


@dataclass(frozen=True)
class WorkerBackend:
    """What runs a service's segments on this machine: the handler and its sources of state.

    Attributes:
        host: the Docker engine's id; a lease is taken over at once only on the same one.
        engine: the state of that engine, for reports.
        folders: where the workers of the engine find each other; None: they do not.
        logs: the output of its entities.
        entities: returns the number of entities in the owned segments by state.
        metrics: further metrics of this worker.
        usage: what an entity's container uses.
        at_exit: called when no segment is owned any more and all parts still run; limited to 15 s.
        answerer: answers queries about entities of owned segments; None for a service without queries.
    """

    handler: SegmentHandler
    host: str
    engine: EngineView
    logs: LogSource
    entities: Callable[[], Mapping[str, int]] = dict
    metrics: Sequence[Collector] = ()
    folders: EngineFolders | None = None
    at_exit: Callable[[], Awaitable[None]] = _nothing
    usage: UsageOf = no_usage
    answerer: Answerer | None = None


class WorkerRole:
    """Owns segments and does their work.

    Args:
        prepare: creates the backend; it may wait for the engine and the storage without a limit.
        derive: takes MongoDB's time, and returns what computes the service's own fields for an entity, and rejects what
            can never work.
        keeps_place: as in :class:`OwnerQuotas`.
    """

    name = "worker"
    settings: type[WorkerSettings] = WorkerSettings

    def __init__(
        self,
        prepare: Callable[[WorkerContext], Awaitable[WorkerBackend]],
        *,
        derive: Callable[[Callable[[], float]], Derive] | None = None,
        keeps_place: KeepsPlace = keeps_while_it_should_run,
    ) -> None:
        self._prepare = prepare
        self._derive = derive
        self._keeps_place = keeps_place
        self._worker: Worker | None = None
        self._api = WorkerApi()
        self._audit: AuditStore | None = None

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """Return the routes of the worker's state and output."""
        return self._api.routes()

    async def build(self, process: Process, settings: WorkerSettings) -> None:
        """Declare the worker's parts, in the order of their dependencies."""
        context = await self._open(process, settings)
        backend = await self._prepare(context)
        key = await asyncio.to_thread(WorkerKey.load, settings.containers.temp_dir)
        identity = WorkerIdentity(
            worker_id=settings.identity.worker_id,
            instance_id=uuid.uuid4().hex,
            host=backend.host,
            hostname=socket.gethostname(),
            version=runtime_version(),
            http_port=process.http.port,
            started_at_milliseconds=time.time_ns() // 1_000_000,
            public_key=key.public,
            labels=settings.identity.labels,
            answers_queries=backend.answerer is not None,
            template=settings.identity.template,
        )
        worker = Worker(
            identity,
            settings.coordination.master_addresses,
            leases=context.leases,
            handler=backend.handler,
            timing=LeaseTiming.of(settings.lease.life_seconds, settings.lease.renew_interval_seconds),
            readiness=process.readiness,
            engine=backend.engine,
            heartbeat_interval_seconds=settings.coordination.heartbeat_interval_seconds,
            stop_grace_seconds=settings.containers.stop_grace_seconds,
            security=TransportSecurity.of(settings.transport, process.service.name),
            folders=backend.folders,
            key=key,
            answerer=backend.answerer,
        )
        self._worker = worker
        views = EntityViews(process.database, process.service.collection)
        token = secrets.token_urlsafe(32)
        # Masters fetch output from it.
        process.http.accept(token)
        self._api.open(
            process.service, worker, views, backend.logs, token=token, audit=self._audit, usage=backend.usage
        )
        registry.register(
            WorkerCollector(worker.snapshot, life_seconds=settings.lease.life_seconds, entities=backend.entities)
        )
        for collector in backend.metrics:
            registry.register(collector)
        process.lifecycle.part("worker", worker.run)
        here = KnownProcess(
            identity.worker_id,
            self.name,
            identity.hostname,
            reachable_at(settings.http.host),
            identity.http_port,
            token,
        )
        process.lifecycle.part("presence", lambda: be_present(ProcessStore(process.database), here))
        process.lifecycle.on_stop("drain", worker.drain, limit_seconds=settings.containers.stop_grace_seconds + 15)
        process.lifecycle.on_stop("leave", lambda: process.lifecycle.end_part("worker"), limit_seconds=5)
        process.lifecycle.on_stop("finish pending uploads", backend.at_exit, limit_seconds=16)

    async def _open(self, process: Process, settings: WorkerSettings) -> WorkerContext:
        if settings.quotas.cpus and settings.containers.cpus is None:
            raise UserError("QUOTA_CPUS needs BOT_CPUS: what has no CPU limit may use all CPUs of its engine")
        database = process.database
        partitions = PartitionStore(database, process.service.collection, settings.partitions.max_per_partition)
        leases = LeaseStore(process.lease_database, settings.lease.life_seconds)
        derive = self._derive(leases.now) if self._derive is not None else None
        entities = EntityStore(database, process.service.collection, partitions, derive=derive)
        runs = RunStore(database, settings.history.keep_runs_days)
        failures = FailureStore(database)
        bot_metrics = BotMetricsStore(database, process.service.collection)
        self._audit = audit = AuditStore(database, settings.history.keep_audit_days)
        for ensure_indexes in (
            entities.ensure_indexes,
            runs.ensure_indexes,
            failures.ensure_indexes,
            bot_metrics.ensure_indexes,
            audit.ensure_indexes,
        ):
            await retry_forever(ensure_indexes)
        connection = NatsConnection.of(
            settings.nats,
            name=f"{process.service.name} {settings.identity.worker_id}",
            readiness=process.readiness,
            inbox=f"{process.service.name}-worker",
        )
        wake_ups = WakeUps(connection, process.service.name)
        if connection is not None:
            ingestion = Ingestion(
                process.service,
                entities,
                failures,
                connection,
                wake_ups,
                max_retries=settings.nats.max_retries,
                readiness=process.readiness,
                applied=partial(audit.events_applied, owner_field=settings.secrets.owner_field),
            )
            process.lifecycle.part("nats", connection.run)
            process.lifecycle.part("events", ingestion.run)
            dead_letters = DeadLetters(JetStream(connection))
            process.lifecycle.part("count dead letters", lambda: dead_letters.watch(process.service.name))
            # Events in hand are redelivered, to another worker.
            process.lifecycle.on_stop(
                "stop reading events", lambda: process.lifecycle.end_part("events"), limit_seconds=5
            )
        # Before anything is decided by MongoDB's time.
        await retry_forever(leases.reachable)
        return WorkerContext(
            process,
            settings,
            scope=await retry_forever(lambda: deployment_id(database)),
            entities=entities,
            runs=runs,
            leases=leases,
            bot_metrics=bot_metrics,
            quotas=OwnerQuotas(
                database,
                quota_of(settings.quotas),
                entities,
                LiveRuns(runs, leases),
                settings.secrets.owner_field,
                self._keeps_place,
            ),
            saved_states=SavedStateStore(database, process.service.collection),
            wake_ups=wake_ups,
            connection=connection,
            owns=self._owns,
        )

    def _owns(self, segment_id: int) -> bool:
        return self._worker is not None and self._worker.owns(segment_id)
