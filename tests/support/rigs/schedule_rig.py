"""A segment of schedules in a real MongoDB, with owners that start and crash, on simulated hosts."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

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
from libs.core.store.runs import LiveRuns, RunFilter, RunStore
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.code.definition import CodeSources, ExecutableBuilder
from libs.docker_runner.containers.run_records import Recorder
from libs.docker_runner.executable import Entrypoint
from libs.docker_runner.settings import OWNER_FIELD, RunnerSettings
from libs.notifications.notifier import Notifier
from libs.notifications.store import NotificationStore
from services.bot_scheduler.attempt import ScheduleKit
from services.bot_scheduler.scheduler import SegmentScheduler
from services.bot_scheduler.state import ScheduleState, keeps_place
from services.bot_scheduler.upkeep import derive_next
from services.bot_scheduler.worker import segment_kit, segment_scheduler
from tests.support.fakes.fake_host import FakeHost
from tests.support.rigs.open_runs import open_run

S = TypeVar("S", bound=EntityStore)

CUSTOM = {"config": {"runtime": "python3.11", "entrypoints": {"bot": "main.py"}}, "filePath": "code.zip"}


class ScheduleRig:
    """One segment, its documents and its owners."""

    def __init__(self, database: Database, *, max_per_partition: int = 1000) -> None:
        self.database = database
        self._slots = PartitionStore(database, "bot_schedules", max_per_partition)
        self.collection = database["bot_schedules"]
        self.use(EntityStore)
        self.runs = RunStore(database)
        self.notifications = NotificationStore(database)
        self.notify = NotifySettings()
        self.leases = LeaseStore(database, 60.0)
        self._partitions = database["partitions"]
        self._epochs = itertools.count(1)
        self.quota = Quota()
        """Of each author, for owners that begin later."""
        self.segment_id = 1

    def use(self, kind: type[S]) -> S:
        """Let later owners read and write through a store of this kind."""
        store = kind(self.database, "bot_schedules", self._slots, derive=derive_next())
        self.entities: EntityStore = store
        return store

    def quotas(self) -> OwnerQuotas:
        """Return the quotas of a worker."""
        live_runs = LiveRuns(self.runs, self.leases)
        return OwnerQuotas(self.database, self.quota, self.entities, live_runs, OWNER_FIELD, keeps_place)

    async def prepare(self) -> None:
        """Create the indexes."""
        await self.entities.ensure_indexes()
        await self.runs.ensure_indexes()
        await self.notifications.ensure_indexes()

    async def deploy(self, schedule_id: str = "s", schedule: str = "* * * * * *", **config: Any) -> None:
        """Create or change a schedule like an event."""
        await self.entities.update(schedule_id, {"schedule": schedule, **config}, CUSTOM)

    async def set(self, schedule_id: str, **fields: Any) -> None:
        """Change fields of a document by their dotted names, with __ for a dot."""
        changes = {name.replace("__", "."): value for name, value in fields.items()}
        await self.collection.update_one({"id": schedule_id}, {"$set": changes})

    async def still_running_in(self, segment_id: int, schedule_id: str = "s", *, owned: bool = True) -> RunRecord:
        """Add an active run in another segment, which is *owned* by a worker on another host."""
        old, epoch = Holder("old", "i", "old-host"), 1
        # Full, so that a deployed schedule goes to another segment.
        await self._partitions.insert_many(
            [{"_id": segment_id, "bot_count": 1_000_000}, {"_id": self.segment_id, "bot_count": 0}]
        )
        if owned:
            epoch = (await self.leases.acquire(segment_id, old)).epoch
        run = open_run(schedule_id, segment_id, epoch, old)
        await self.runs.start(run)
        return run

    async def state(self, schedule_id: str = "s") -> ScheduleState:
        """Return the document."""
        entity = await self.entities.get(schedule_id)
        assert entity is not None
        return ScheduleState.of(entity)

    async def history(self, schedule_id: str = "s") -> list[RunRecord]:
        """Return its ended runs, latest first."""
        return await self.runs.list(RunFilter(entity_id=schedule_id, open=False), limit=1000)

    def owner(
        self, host: FakeHost, *, clock: Callable[[], float] = time.time, worker: str = "w", scan_seconds: float = 0.2
    ) -> "Owner":
        """Return a worker that is about to own the segment, under the next epoch."""
        lease = Lease(self.segment_id, Holder(worker, "i", host.name), next(self._epochs), time.monotonic() + 3600)
        owned = OwnedSegment(lease)
        executables = ExecutableBuilder(
            settings=RunnerSettings(temp_dir=Path("/nonexistent")),
            service="bot-scheduler",
            scope="x",
            entrypoint=Entrypoint.BOT,
            code=CodeSources("bots"),
            segment=owned.segment_id,
            epoch=owned.epoch,
            worker=worker,
            keepalive=None,
        )
        kit = segment_kit(
            owned,
            Recorder(worker, host.name),
            engine=host,
            containers=host.list,
            executables=executables,
            entities=self.entities,
            runs=self.runs,
            leases=self.leases,
            quotas=self.quotas(),
            output=host,
            notifier=Notifier(self.notifications, self.notify, "bot-scheduler", OWNER_FIELD),
            stop_grace_seconds=30.0,
            clock=clock,
            engine_clock=clock,
        )
        return Owner(owned, segment_scheduler(kit, host.name, scan_seconds, wake_ups=WakeUps(None, "x")), host, kit)

    @contextlib.asynccontextmanager
    async def owned_by(
        self, host: FakeHost, *, clock: Callable[[], float] = time.time, scan_seconds: float = 0.2
    ) -> AsyncIterator["Owner"]:
        """A worker that owns the segment during the block, and is then gone as if killed."""
        owner = self.owner(host, clock=clock, scan_seconds=scan_seconds)
        owner.begin()
        try:
            yield owner
        finally:
            await owner.kill()


class Owner:
    """One worker's ownership."""

    def __init__(self, owned: OwnedSegment, scheduler: SegmentScheduler, host: FakeHost, kit: ScheduleKit) -> None:
        self.owned = owned
        self.kit = kit
        self.scheduler = scheduler
        self.host = host
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start firing."""
        self.host.changed = self.scheduler.container_changed
        self._task = asyncio.create_task(self.scheduler.run(), name="scheduler")

    async def kill(self) -> None:
        """Stop it wherever it is; nothing more is written."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def wake(self) -> None:
        """Wake it, like a message about the segment."""
        self.owned.wake.set()


@pytest_asyncio.fixture(loop_scope="session", name="rig")
async def schedule_rig(mongo_uri: str, database_name: str) -> AsyncIterator[ScheduleRig]:
    """A ready rig in its own database."""
    mongo = Mongo(mongo_uri)
    rig = ScheduleRig(mongo.database(database_name))
    await rig.prepare()
    yield rig
    await mongo.close()
