"""Segments of bots in a real MongoDB, with owners that crash at a chosen step, on simulated hosts."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest_asyncio

from libs.core.config.notify_settings import NotifySettings
from libs.core.events.wakeups import WakeUps
from libs.core.leases.lease import Holder, Lease
from libs.core.run_record import RunRecord
from libs.core.store.client import Database, Mongo
from libs.core.store.entities import EntityStore
from libs.core.store.leases import LeaseStore
from libs.core.store.owner_quotas import OwnerQuotas
from libs.core.store.partitions import PartitionStore
from libs.core.store.quotas import Quota
from libs.core.store.revisions import RevisionStore
from libs.core.store.runs import LiveRuns, RunFilter, RunStore
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.code.definition import CodeSources, ExecutableBuilder
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.containers.run_records import Recorder
from libs.docker_runner.executable import Entrypoint, Executable
from libs.docker_runner.settings import OWNER_FIELD, RunnerSettings
from libs.notifications.notifier import Notifier
from libs.notifications.store import NotificationStore
from services.bot_runner.notices import BotNotices
from services.bot_runner.reconciler import SegmentReconciler
from services.bot_runner.records import BotRecords
from services.bot_runner.restarts import RestartPolicy
from services.bot_runner.revision_log import RevisionLog
from services.bot_runner.worker import segment_reconciler
from tests.support.fakes.fake_host import FakeHost
from tests.support.faults.deaths import Death, Mortal

CUSTOM: dict[str, Any] = {
    "config": {"runtime": "python3.11", "entrypoints": {"bot": "main.py"}},
    "filePath": "code.zip",
}
LIFE_SECONDS = 3600.0


class BotRig:
    """One database, its bots and their owners.

    Attributes:
        looks: counts the queries of owners for other live runs of a bot.
        doubles: bots that were started while another of their containers ran, on any host.
        reconcilers: the latest one of each segment.
        stop_grace_seconds: the owners' grace period for a graceful stop.
        notify: the settings of notifications, for owners that begin later.
        quota: of each author, for owners that begin later.
        standby_updates: of owners that begin later.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.entities = EntityStore(database, "bots", PartitionStore(database, "bots", 1000))
        self.runs = RunStore(database)
        self.revisions = RevisionStore(database)
        self.notifications = NotificationStore(database)
        self.notify = NotifySettings()
        self.leases = LeaseStore(database, LIFE_SECONDS)
        self.looks = Death()
        self.doubles: list[str] = []
        self.reconcilers: dict[int, SegmentReconciler] = {}
        self.stop_grace_seconds = 0.0
        self.quota = Quota()
        self.standby_updates = False
        self._hosts: list[FakeHost] = []
        self._processes = itertools.count(1)

    async def prepare(self) -> None:
        """Create the indexes."""
        await self.entities.ensure_indexes()
        await self.runs.ensure_indexes()
        await self.notifications.ensure_indexes()

    def host(self, name: str = "host", **more: Any) -> FakeHost:
        """A host on which bots run until they are stopped."""
        host = FakeHost(name, **({"run_seconds": None} | more), made=self._made)
        self._hosts.append(host)
        return host

    async def deploy(
        self, bot_id: str = "b", *, version: str = "", code: str = "code.zip", author: str = "ann", **config: Any
    ) -> None:
        """Create or change a bot like an event; a later *version* differs in nothing else."""
        described = {**CUSTOM["config"], "author": author}
        await self.entities.update(bot_id, config, {"config": described, "version": version, "filePath": code})

    async def create_again_in(self, segment: int, bot_id: str = "b") -> None:
        """Delete a bot and recreate it at once, in another segment, without waking its owners."""
        await self.entities.delete(bot_id)
        await self.entities.create(bot_id, {}, CUSTOM)
        await self.database["bots"].update_one({"id": bot_id}, {"$set": {"segment_id": segment}})
        await self.database["partitions"].update_one({"_id": segment}, {"$set": {"bot_count": 1}}, upsert=True)

    async def status(self, bot_id: str = "b") -> dict[str, Any]:
        """Return the status in the bot's document."""
        return (await self.database["bots"].find_one({"id": bot_id}) or {}).get("status") or {}

    async def history(self, bot_id: str = "b", *, ended: bool = True) -> list[RunRecord]:
        """Return its ended runs, or its open runs, latest first."""
        return await self.runs.list(RunFilter(entity_id=bot_id, open=not ended))

    async def acquire(self, host: FakeHost, segment: int) -> Lease:
        """Acquire the lease for a new process of the worker of *host*, which takes over from the previous one."""
        number = next(self._processes)
        return await self.leases.acquire(segment, Holder(f"w-{host.name}", f"i{number}", host.name, number))

    def quotas(self) -> OwnerQuotas:
        """Return the quotas of a worker."""
        live_runs = LiveRuns(self.runs, self.leases)
        return OwnerQuotas(self.database, self.quota, self.entities, live_runs, OWNER_FIELD)

    def records(self, host: FakeHost, lease: Lease, runs: Any = None, death: Death | None = None) -> BotRecords:
        """Return the records of a worker on *host*."""
        death = death or Death()
        entities: Any = Mortal(self.entities, death, "set_status", "compare_and_set")
        runs = runs or Mortal(self.runs, death, "start", "finish", "adopt", "close_open")
        runs = Mortal(runs, self.looks, "list")
        logs: Any = host
        return BotRecords(
            Recorder(f"w-{host.name}", host.name),
            segment_id=lease.segment_id,
            epoch=lease.epoch,
            entities=entities,
            runs=runs,
            leases=self.leases,
            logs=logs,
        )

    def executables(self, lease: Lease) -> ExecutableBuilder:
        """Return the builder of a segment's executables."""
        return ExecutableBuilder(
            settings=RunnerSettings(temp_dir=Path("/nonexistent")),
            service="bot-runner",
            scope="x",
            entrypoint=Entrypoint.BOT,
            code=CodeSources("bots"),
            segment=lease.segment_id,
            epoch=lease.epoch,
            worker=lease.holder.worker_id,
            keepalive=None,
        )

    async def executable(self, lease: Lease, bot_id: str = "b") -> Executable:
        """Return the executable that the owner of a segment would start now."""
        entity = await self.entities.get(bot_id)
        assert entity is not None
        return self.executables(lease).build(entity)

    @contextlib.asynccontextmanager
    async def owned_by(
        self, host: FakeHost, *, segment: int = 1, death: Death | None = None, scan_seconds: float = 0.25
    ) -> AsyncIterator[OwnedSegment]:
        """A worker that owns the segment during the block, and is then gone as if killed."""
        owned = OwnedSegment(await self.acquire(host, segment))
        reconciler = self.reconcilers[segment] = self._reconciler(owned, host, death or Death(), scan_seconds)
        host.changed = reconciler.container_changed
        host.step = (death or Death()).around
        task = asyncio.create_task(reconciler.run(), name="reconciler")
        try:
            yield owned
        finally:
            owned.lease = replace(owned.lease, proven_until=0.0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _reconciler(self, owned: OwnedSegment, host: FakeHost, death: Death, scan_seconds: float) -> SegmentReconciler:
        group: Any = _Group(host, owned)
        runner: Any = Mortal(host, death, "start", "stop", "exit_info", "remove", "stand_by", "drop_standby")
        entities: Any = _Moving(self.entities, death)
        return segment_reconciler(
            owned,
            runner=runner,
            room=host.room,
            containers=group,
            executables=self.executables(owned.lease),
            entities=entities,
            records=self.records(host, owned.lease, death=death),
            revisions=RevisionLog(self.revisions, OWNER_FIELD),
            notices=BotNotices(self._notifier(death), time.time),
            quotas=self.quotas(),
            window_seconds=10.0,
            stop_grace_seconds=self.stop_grace_seconds,
            wake_ups=WakeUps(None, "bot-runner"),
            scan_interval_seconds=scan_seconds,
            clock=time.time,
            standby_updates=self.standby_updates,
            policy=RestartPolicy(initial_seconds=0.05),
        )

    def _notifier(self, death: Death) -> Notifier:
        store: Any = Mortal(self.notifications, death, "put")
        return Notifier(store, self.notify, "bot-runner", OWNER_FIELD)

    def _made(self, container: ManagedContainer) -> None:
        if sum(len(host.alive(container.id)) for host in self._hosts) > 1:
            self.doubles.append(container.id)


class _Moving:
    """The entities; a worker may crash when it moves one to another segment."""

    def __init__(self, entities: EntityStore, death: Death) -> None:
        self._entities = entities
        self.relocations = Mortal(entities.relocations, death, "carry_out", "refuse")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entities, name)


class _Group:
    def __init__(self, host: FakeHost, owned: OwnedSegment) -> None:
        self._host = host
        self._owned = owned

    async def remove_standbys(self) -> None:
        await self._host.remove_standbys(self._owned.epoch)

    async def list(self) -> list[ManagedContainer]:
        containers = await self._host.list()
        return [c for c in containers if c.segment == self._owned.segment_id and c.epoch <= self._owned.epoch]


@pytest_asyncio.fixture(loop_scope="session", name="rig")
async def bot_rig(mongo_uri: str, database_name: str) -> AsyncIterator[BotRig]:
    """A ready rig in its own database."""
    mongo = Mongo(mongo_uri)
    rig = BotRig(mongo.database(database_name))
    await rig.prepare()
    yield rig
    await mongo.close()
