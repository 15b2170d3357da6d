"""Wire a worker's Docker host: engine, images, code, containers and their output."""

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from prometheus_client.registry import Collector

from libs.core.aio.backoff import Backoff
from libs.core.aio.threads import Threads
from libs.core.config.connection_settings import StorageSettings
from libs.core.http.health import Readiness
from libs.core.kubernetes.api_server import ApiServer
from libs.core.leases.boot_clock import this_boot
from libs.core.leases.lease import LeaseView
from libs.core.observability.log import get_logger
from libs.core.process.lifecycle import Lifecycle
from libs.core.room import Need, Room
from libs.core.storage.data_sets import DataCatalog
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.code.cache import CodeCache
from libs.docker_runner.code.definition import CodeSources, ExecutableBuilder
from libs.docker_runner.containers.container import ContainerState
from libs.docker_runner.containers.container_group import ContainerGroup
from libs.docker_runner.containers.host_cleaner import HostCleaner
from libs.docker_runner.containers.keepalive import KeepaliveFile, SegmentKeepalive
from libs.docker_runner.containers.keepalive_root import (
    KeepaliveDirUnseen,
    is_on_this_kernel,
    keepalive_places,
    keepalive_root,
    usual_roots,
)
from libs.docker_runner.containers.run_records import History, Recorder
from libs.docker_runner.containers.spec_root import spec_root
from libs.docker_runner.data.host_data import HostData
from libs.docker_runner.engine.answers import EngineInfo
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.container_watch import Listener
from libs.docker_runner.engine.room import Priority
from libs.docker_runner.engine.room_metrics import RoomCollector
from libs.docker_runner.errors import DiskUnavailable
from libs.docker_runner.executable import Entrypoint
from libs.docker_runner.logs.budget import SpoolBudget
from libs.docker_runner.logs.handover import HandOver
from libs.docker_runner.logs.history import LogHistory
from libs.docker_runner.logs.objects import LogObjects
from libs.docker_runner.logs.open_logs import OpenLogs
from libs.docker_runner.logs.pipeline import LogPipeline
from libs.docker_runner.logs.reader import LogReader
from libs.docker_runner.pods.cluster import PodsApi
from libs.docker_runner.pods.engine import PodEngine
from libs.docker_runner.pods.session import SegmentLease
from libs.docker_runner.runner import DockerRunner
from libs.docker_runner.settings import RunnerSettings
from libs.docker_runner.state.archives import StateLimits
from libs.docker_runner.state.keeper import StateKeeper
from libs.docker_runner.state.versions import StatePointers, StateVersions
from libs.docker_runner.usage.sampler import UsageCollector, UsageSampler
from libs.docker_runner.worker.bot_metrics import BotMetrics, BotValues
from libs.docker_runner.worker.engine_health import EngineHealth, wait_for_engine

log = get_logger(__name__)

DISK = "disk"
"""The name under which readiness shows the work folder."""


class DockerHost:
    """The Docker host of one worker of one service. Made by :meth:`open`.

    Attributes:
        engine_id: the engine's own id; two workers with the same one share a host.
        recorder: this worker's identity in the history.
        store: object storage; *code*, *logs*, *log_reader* and *states* use it.
        shared_folder: where the workers of the engine find each other; None where locks may depend on other hosts.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        *,
        engine: Engine,
        engine_id: str,
        store: ObjectStore,
        code: CodeCache,
        data: HostData,
        service: str,
        scope: str,
        worker: str,
        lease_seconds: float,
        owns: Callable[[int], bool],
        history: History,
        leases: Callable[[], Awaitable[Sequence[LeaseView]]],
        keepalives: Path,
        bot_metrics: BotMetrics,
        exports_bot_metrics: bool,
        state_pointers: StatePointers,
        priority: Priority = Priority.BOT,
    ) -> None:
        self._priority = priority
        self.settings = settings
        self.engine_id = engine_id
        self.recorder = Recorder(worker, engine_id)
        self.store = store
        self.code = code
        versions = StateVersions(store, store.settings.state_bucket, state_pointers, service)
        limits = StateLimits(settings.state_bytes)
        self.states = StateKeeper(versions, service=service, scope=scope, limits=limits, owns=owns)
        self.runner = DockerRunner(engine, code, settings, data=data, states=self.states)
        self._usage = UsageSampler(self.runner, service=service, scope=scope, owns=owns)
        self.ending: set[int] = set()
        """Segments whose containers this worker still stops, and records, after it has given them away."""
        self._service = service
        self._scope = scope
        self._lease_seconds = lease_seconds
        self._keepalives: dict[int, KeepaliveFile] = {}
        # Separate threads, so that a slow disk does not delay keepalives.
        self._keepalive_threads = Threads("keepalive", 2)
        self.health = EngineHealth(self.runner, engine, settings, engine_id, keepalives, self._continues)
        # Ids come from outside and scopes from the runtime, but both are used in paths only as digests.
        place = hashlib.sha256(f"{service}\0{scope}".encode()).hexdigest()[:20]
        # Former locations of keepalives: adopted containers may watch a file there.
        self._places = keepalive_places(
            keepalives,
            [settings.temp_dir / "keepalive", *usual_roots()],
            service=service,
            scope=scope,
            engine_id=engine_id,
            boot_id=this_boot(),
        )
        # Beside it, and without folders in it: workers of older versions remove old folders.
        workers = keepalives / f"{place}.workers"
        self._pods = engine.fleet if isinstance(engine, PodEngine) else None
        # Workers of one cluster are on many machines.
        self.shared_folder = workers if self._pods is None and is_on_this_kernel(keepalives) else None
        bucket = store.settings.logs_bucket
        budget = SpoolBudget(settings.log_spools_bytes, settings.log_spool_bytes)
        logs = OpenLogs(settings.temp_dir / "logs" / place, LogObjects(store, bucket), budget)
        turns = HandOver(store, bucket, place=place, writer=engine_id, owns=owns)
        self.bot_metrics = bot_metrics
        self._exports_bot_metrics = exports_bot_metrics
        self.logs = LogPipeline(
            self.runner.followed, logs, turns, on_metric=self.bot_metrics.note, stored_output=self._pods
        )
        self._cleaner = HostCleaner(
            self.runner,
            service=service,
            scope=scope,
            owns=lambda segment: owns(segment) or segment in self.ending,
            leases=leases,
            history=history,
            recorder=self.recorder,
            code=code,
            logs=self.logs,
            keepalives=self._places.current,
            former=self._places.former,
            life_seconds=lease_seconds,
        )
        self.log_reader = LogReader(self.logs.uploads, LogHistory(store, bucket))

    @classmethod
    async def open(
        cls,
        lifecycle: Lifecycle,
        readiness: Readiness,
        *,
        settings: RunnerSettings,
        storage: StorageSettings,
        code_cache_bytes: int,
        data_cache_bytes: int,
        data_set_bytes: int,
        lease_seconds: float,
        service: str,
        scope: str,
        worker: str,
        owns: Callable[[int], bool],
        history: History,
        leases: Callable[[], Awaitable[Sequence[LeaseView]]],
        bot_metrics: BotMetrics,
        exports_bot_metrics: bool,
        state_pointers: StatePointers,
        keeps_state: bool,
        priority: Priority,
    ) -> "DockerHost":
        """Connect, waiting for the engine and the storage without a limit, and declare the loops.

        Args:
            lifecycle: receives the loops of this host, and its closing steps.
            readiness: shows meanwhile what is waited for.
            lease_seconds: duration of a lease, for the dead-man's switch.
            owns: whether this worker owns a segment now, by a lease that it can prove.
            history: stores the ends of other workers' containers that are removed.
            leases: returns all live leases.
            bot_metrics: the metrics that bots print; *exports_bot_metrics*: Prometheus gets them too.
            state_pointers: where the entities' saved state is decided.
            keeps_state: whether the service's entities have any; else the bucket of state need not be accessible.
            priority: the precedence of the service's containers for the engine's room.
        """
        engine = _engine_of(settings, service, scope)
        store = ObjectStore(storage)
        # For a start that fails before there is a runner, which closes it as well.
        lifecycle.on_close("docker engine", engine.close, limit_seconds=2)
        lifecycle.on_close("storage", store.close, limit_seconds=2)
        buckets = [storage.code_bucket, storage.logs_bucket, storage.results_bucket]
        if keeps_state:
            buckets.append(storage.state_bucket)
        info, _ = await asyncio.gather(
            wait_for_engine(engine, readiness),
            store.wait_until_up(readiness, buckets),
        )
        check_users(settings, info, engine.socket_group())
        if settings.pods is not None:
            # No pod sees a folder of this host.
            keepalives = settings.temp_dir / "keepalive"
        else:
            try:
                keepalives = await keepalive_root(settings.keepalive_dir, settings.temp_dir, engine)
            except KeepaliveDirUnseen as error:
                # Reported on /readyz below, until the engine sees it.
                keepalives = error.folder
            settings = replace(settings, spec_dir=await spec_root(settings.spec_dir, settings.temp_dir, engine))
        code = CodeCache(store, settings.temp_dir / "code", code_cache_bytes)
        await _until_disk_takes("code", code.open, readiness)
        data = HostData(
            DataCatalog(store, storage.data_bucket or storage.code_bucket, storage.data_prefix),
            settings.temp_dir / "data",
            max_bytes=data_cache_bytes,
            max_set_bytes=data_set_bytes,
        )
        await _until_disk_takes("data", data.open, readiness)
        host = cls(
            settings,
            engine=engine,
            engine_id=info.id,
            store=store,
            code=code,
            data=data,
            service=service,
            scope=scope,
            worker=worker,
            lease_seconds=lease_seconds,
            owns=owns,
            history=history,
            leases=leases,
            keepalives=keepalives,
            bot_metrics=bot_metrics,
            exports_bot_metrics=exports_bot_metrics,
            state_pointers=state_pointers,
            priority=priority,
        )
        await _until_disk_takes("entrypoints", host.runner.open, readiness)
        await host.health.check_first()
        host.health.report(readiness)
        host.health.on_change(lambda: host.health.report(readiness))
        host._declare_loops(lifecycle, readiness, keeps_state=keeps_state)
        lifecycle.on_close("docker runner", host.runner.close, limit_seconds=2)
        lifecycle.on_close("state", host.states.close, limit_seconds=2)
        lifecycle.on_close("code", code.close, limit_seconds=2)
        lifecycle.on_close("data", data.close, limit_seconds=2)
        return host

    def _declare_loops(self, lifecycle: Lifecycle, readiness: Readiness, *, keeps_state: bool) -> None:
        if self._pods is not None:
            lifecycle.part("pods", self._pods.run)
        else:
            lifecycle.part("look at what the engine sees", self.health.sight.run)
        lifecycle.part("watch the docker engine", lambda: self._watch(readiness))
        lifecycle.part("look at the engine's room", self.runner.room.run)
        lifecycle.part("look at the groups of bots", self.health.groups.run)
        if self.settings.host_agent:
            lifecycle.part("keep the host agent", self.health.agent.run)
        lifecycle.part("pull the images of bots", self.health.pull_for_ever)
        lifecycle.part("prepare the docker host", self.health.prepare_for_ever)
        lifecycle.part("container events", self.runner.watch.run)
        lifecycle.part("clean the docker host", self._cleaner.run)
        # Ended after the logs, whose last lines it stores.
        lifecycle.part("metrics of bots", self.bot_metrics.run)
        lifecycle.part("logs", self.logs.run)
        if keeps_state:
            lifecycle.part("save state", self.states.run)
        lifecycle.part("sample containers", self._usage.run)

    def keepalive(self, segment: int) -> KeepaliveFile:
        """Return the dead-man's switch of a segment's containers."""
        if segment not in self._keepalives:
            former = [directory / str(segment) for directory in self._places.former]
            folder = self._places.current / str(segment)
            self._keepalives[segment] = SegmentKeepalive(folder, self._lease_seconds, former=former)
        return self._keepalives[segment]

    async def keep_alive(self, segment: int, proven_until: float, epoch: int) -> None:
        """Extend the life of a segment's containers until shortly before *proven_until*, by boot_seconds().

        Raises:
            OSError: they do not see the extension.
        """
        if self._pods is not None:
            self._pods.set_lease(segment, SegmentLease(epoch, proven_until))
        await self._keepalive_threads.run(self.keepalive(segment).refresh, proven_until, epoch)

    async def end_by(self, segment: int, deadline: float, epoch: int) -> None:
        """Set the last deadline of a segment's containers, by boot_seconds(); see :meth:`KeepaliveFile.end_by`.

        Raises:
            OSError: they do not see it.
        """
        await self._keepalive_threads.run(self.keepalive(segment).end_by, deadline, epoch)

    async def expire(self, segment: int) -> None:
        """End a segment's containers by their dead-man's switch, late starts too; at the latest with the lease."""
        if self._pods is not None:
            await self._pods.expire(segment)
        try:
            await self._keepalive_threads.run(self.keepalive(segment).expire)
        except OSError as error:
            log.warning("keepalive not expired; it runs out with the lease", segment=segment, reason=str(error))

    def group(self, segment: int, epoch: int) -> ContainerGroup:
        """Return the containers of a segment under one ownership."""
        return ContainerGroup(self.runner, service=self._service, scope=self._scope, segment=segment, epoch=epoch)

    def executables(
        self, entrypoint: Entrypoint, segment: int, epoch: int, *, answers_queries: bool = False
    ) -> ExecutableBuilder:
        """Return the builder of a segment's executables under one ownership.

        Args:
            answers_queries: whether entities that have queries answer them while they run.
        """
        return ExecutableBuilder(
            settings=self.settings,
            service=self._service,
            scope=self._scope,
            entrypoint=entrypoint,
            code=self._code_sources(),
            segment=segment,
            epoch=epoch,
            worker=self.recorder.worker,
            keepalive=self.keepalive(segment).folder,
            priority=self._priority,
            answers_queries=answers_queries,
        )

    def _code_sources(self) -> CodeSources:
        storage = self.store.settings
        closed = (storage.logs_bucket, storage.results_bucket, storage.state_bucket)
        return CodeSources(storage.code_bucket, storage.code_prefix, storage.named_buckets, closed)

    def metrics(self) -> Sequence[Collector]:
        """Return the metrics of this host, with those of its bots if they are to be exported."""
        values = [BotValues(self.bot_metrics)] if self._exports_bot_metrics else []
        return [UsageCollector(self.runner), RoomCollector(self.runner.room), self.health.agent, *values]

    def room(self) -> Room | None:
        """Return the engine's room available to this service's containers; None while unknown. Fast."""
        return self.runner.room.room(self._priority)

    def listening(self, listener: Listener) -> AbstractContextManager[None]:
        """Call *listener* with each event of this service's containers, during the block."""
        return self.runner.watch.listening(listener, self._service, self._scope)

    async def _continues(self) -> bool:
        containers = await self.runner.list(self._service, self._scope)
        return any(container.state is ContainerState.RUNNING for container in containers)

    async def _watch(self, readiness: Readiness) -> None:
        with self.listening(self.health.note_gap):
            await self.health.watch(readiness)


def _engine_of(settings: RunnerSettings, service: str, scope: str) -> Engine:
    if settings.pods is None:
        return Engine(timeout_seconds=settings.engine_timeout_seconds)
    server = ApiServer(os.environ, settings.engine_timeout_seconds)
    api = PodsApi(server, settings.pods.namespace)
    return PodEngine(api, settings.pods, settings.temp_dir, service=service, scope=scope)


async def _until_disk_takes(what: str, prepare: Callable[[], Awaitable[None]], readiness: Readiness) -> None:
    """Call *prepare* until TEMP_DIR can be written and has room for it."""
    backoff = Backoff(initial_seconds=0.2, cap_seconds=5.0)
    while True:
        try:
            await prepare()
        except OSError as error:
            reason = str(DiskUnavailable(what, error))
            readiness.report(DISK, False, reason)
            log.warning("work folder cannot be used", what=what, reason=reason)
            await asyncio.sleep(backoff.next_seconds())
        else:
            if backoff.failures:
                readiness.report(DISK, True)
            return


def check_users(settings: RunnerSettings, info: EngineInfo, socket_group: int | None) -> None:
    """Raise UsersUnusable for users of bots that would be others' as well."""
    rules, has = settings.room, info.capacity
    total = rules.total(has)
    settings.users.check(
        worker_user=os.geteuid(),
        socket_group=socket_group,
        total=Need(
            total.memory_bytes if has.memory_bytes or rules.memory_bytes else 0,
            total.cpus if has.cpus or rules.cpus else 0.0,
        ),
        entity=settings.limits.need,
    )
