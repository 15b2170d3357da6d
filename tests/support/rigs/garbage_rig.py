"""The data that services store, without the services: documents and objects in the test's databases and buckets."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from pydantic import SecretStr

from libs.collector.code import UnreferencedCode
from libs.collector.collector import Collector, Garbage
from libs.collector.logs import OldLogs
from libs.collector.records import ManyRecords
from libs.core.config.connection_settings import StorageSettings
from libs.core.process.service import BOT_RUNNER, SERVICES, ServiceDefinition
from libs.core.run_record import RunRecord
from libs.core.storage.object_store import ObjectInfo, ObjectStore
from libs.core.store.client import Database, Mongo
from libs.core.store.code_references import CodeReferences
from libs.core.store.code_retention import CodeRetention
from libs.core.store.entities import EntityStore
from libs.core.store.partitions import PartitionStore
from libs.core.store.run_trimming import RunTrimming
from libs.core.store.runs import RunStore
from libs.docker_runner.logs.keys import index_key, log_key
from services.backtest_runner.old_results import OldResults
from tests.support.faults.deaths import Death, Mortal
from tools.bots.code_upload import CodeUpload
from tools.bots.package import Package
from tools.stack.s3 import S3Server

DAY_SECONDS = 86_400.0
KEEP_SECONDS = 16 * DAY_SECONDS


class ShiftedStore(ObjectStore):
    """A storage whose clock is `ahead_seconds` ahead; tests may change it."""

    def __init__(self, settings: StorageSettings) -> None:
        super().__init__(settings)
        self.ahead_seconds = 0.0
        self._ahead_at_put: dict[tuple[str, str], float] = {}

    async def now(self, bucket: str) -> datetime:
        """Return the shifted clock."""
        return await super().now(bucket) + timedelta(seconds=self.ahead_seconds)

    async def put(self, bucket: str, key: str, content: bytes, content_type: str = "application/octet-stream") -> str:
        """Store it at the shifted time."""
        self._ahead_at_put[bucket, key] = self.ahead_seconds
        return await super().put(bucket, key, content, content_type)

    async def list(self, bucket: str, prefix: str, *, start_after: str = "") -> AsyncIterator[ObjectInfo]:
        """Return the objects with shifted times."""
        async for info in super().list(bucket, prefix, start_after=start_after):
            ahead = timedelta(seconds=self._ahead_at_put.get((bucket, info.key), 0.0))
            yield replace(info, modified_at=info.modified_at + ahead)


class Interruption:
    """Runs an action right before the *at*-th request of a collector, or of its requests *only* of one name."""

    def __init__(self, at: int, event: Callable[[], Awaitable[object]], only: str | None = None) -> None:
        self.happened = False
        self.only = only
        self._left = at
        self._event = event

    async def around(self, request: Callable[[], Awaitable[Any]]) -> Any:
        """Make the request."""
        self._left -= 1
        if self._left == 0:
            self.happened = True
            await self._event()
        return await request()


@dataclass
class GarbageRig:
    """The three services' databases and the buckets."""

    mongo: Mongo
    store: ShiftedStore
    prefix: str
    name: str
    entities: dict[str, EntityStore] = field(default_factory=dict)

    @property
    def code_bucket(self) -> str:
        """The location of code."""
        return f"{self.prefix}-code"

    @property
    def logs_bucket(self) -> str:
        """The location of logs."""
        return f"{self.prefix}-logs"

    @property
    def results_bucket(self) -> str:
        """The location of results."""
        return f"{self.prefix}-results"

    async def open(self) -> None:
        """Create the data that always exists."""
        for bucket in (self.code_bucket, self.logs_bucket, self.results_bucket):
            await self.store.ensure_bucket(bucket)
        for service in SERVICES:
            database, collection = self.database(service), service.collection
            self.entities[service.name] = EntityStore(database, collection, PartitionStore(database, collection, 100))
            await self.entities[service.name].ensure_indexes()
            await RunStore(database).ensure_indexes()

    async def drop(self) -> None:
        """Remove the databases."""
        for service in SERVICES:
            await self.database(service).client.drop_database(self.database(service).name)

    def database(self, service: ServiceDefinition) -> Database:
        """Return the service's database."""
        return self.mongo.database(f"{self.name}_{service.database}")

    # --- the tools' and workers' part

    def upload(self, service: ServiceDefinition = BOT_RUNNER) -> CodeUpload:
        """The tool that uploads code."""
        retention = CodeRetention(self.database(service))
        return CodeUpload(service, self.store, self.code_bucket, retention, KEEP_SECONDS)

    async def deploy(self, entity_id: str, content: bytes, service: ServiceDefinition = BOT_RUNNER) -> str:
        """Upload code and announce an entity, or its next version; return the code's key."""
        entities = self.entities[service.name]
        key = await self.upload(service).key_of(package_of(content), await entities.get(entity_id))
        await entities.update(entity_id, {}, {"config": {"runtime": "python3.11"}, "filePath": key})
        return key

    async def log(self, entity_id: str, day: str = "20260301") -> tuple[str, str]:
        """Store a day's log and its index; return their keys."""
        key = log_key(entity_id, day)
        await self.store.put(self.logs_bucket, index_key(key), b"index")
        await self.store.put(self.logs_bucket, key, b"output\n")
        return key, index_key(key)

    async def runs(self, entity_id: str, number: int, service: ServiceDefinition = BOT_RUNNER) -> None:
        """Record runs that ended, one a minute."""
        store = RunStore(self.database(service))
        begun = datetime.now(UTC) - timedelta(minutes=number)
        for minute in range(number):
            started_at = begun + timedelta(minutes=minute)
            record = ended_run(f"{entity_id}/{minute:04}", entity_id, started_at)
            await store.start(record)
            await store.finish(record)

    # --- the collector's part

    def kinds(
        self,
        *,
        log_count: int = 0,
        run_count: int = 5,
        death: Death | Interruption | None = None,
        settle_seconds: float = 0.0,
    ) -> list[Garbage]:
        """Return all garbage kinds of a bot-runner's and a backtest-runner's master; *death* is the master's crash."""
        death = death or Death()
        only = death.only if isinstance(death, Interruption) else None

        def mortal(thing: object, *requests: str) -> Any:
            return Mortal(thing, cast(Death, death), *(one for one in requests if only in (None, one)))

        database = self.database(BOT_RUNNER)
        store = mortal(self.store, "now", "remove")
        runs: Any = {"runs": mortal(database["runs"], "delete_many")}
        retention = mortal(CodeRetention(database), "announce")
        return [
            ManyRecords(RunTrimming(runs, page=3), run_count),
            UnreferencedCode(
                BOT_RUNNER,
                store,
                self.code_bucket,
                mortal(self.references(), "among"),
                retention,
                KEEP_SECONDS,
                settle_seconds=settle_seconds,
                page=100,
            ),
            OldLogs(store, self.logs_bucket, KEEP_SECONDS, log_count),
            OldResults(store, self.results_bucket, KEEP_SECONDS, 0),
        ]

    def references(self) -> CodeReferences:
        """The references of entities."""
        own, *others = [(self.database(service), service.collection) for service in SERVICES]
        return CodeReferences(own, others)

    async def collect(self, **rules: Any) -> Mapping[str, int]:
        """Collect once; return the number of removed items of each kind."""
        collector = Collector(self.kinds(**rules), interval_seconds=60.0)
        return {found.kind: found.count for found in await collector.collect()}

    # --- the remaining data

    async def keys(self, bucket: str) -> set[str]:
        """Return the keys of all objects of a bucket."""
        return {info.key async for info in self.store.list(bucket, "")}

    async def run_ids(self, service: ServiceDefinition = BOT_RUNNER) -> list[str]:
        """Return the ids of all records, in order."""
        return sorted([found["_id"] async for found in self.database(service)["runs"].find()])


def package_of(content: bytes) -> Package:
    """Return code with its digest."""
    return Package(content, hashlib.sha256(content).hexdigest(), 1)


def ended_run(run_id: str, entity_id: str, started_at: datetime) -> RunRecord:
    """Return a run of one minute."""
    return RunRecord(
        run_id=run_id,
        entity_id=entity_id,
        segment_id=1,
        worker_id="w",
        host="h",
        epoch=1,
        started_at=started_at,
        ended_at=started_at + timedelta(minutes=1),
        reason="finished",
    )


@asynccontextmanager
async def garbage_rig(mongo_uri: str, s3_server: S3Server, prefix: str, name: str) -> AsyncIterator[GarbageRig]:
    """An open rig."""
    mongo = Mongo(mongo_uri, timeout_seconds=20)
    settings = StorageSettings(
        endpoint=s3_server.endpoint,
        access_key=SecretStr(S3Server.access_key),
        secret_key=SecretStr(S3Server.secret_key),
    )
    store = ShiftedStore(settings)
    rig = GarbageRig(mongo, store, prefix, name)
    try:
        await rig.open()
        yield rig
    finally:
        await rig.drop()
        await store.close()
        await mongo.close()
