"""A segment of backtests in real servers, with owners that crash at a chosen write, and simulated runs."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest_asyncio
from pydantic import SecretStr

from libs.core.config.connection_settings import StorageSettings
from libs.core.config.notify_settings import NotifySettings
from libs.core.hostile_json import Kind
from libs.core.leases.lease import Holder, Lease
from libs.core.run_record import RunRecord
from libs.core.storage.errors import ObjectMissing
from libs.core.storage.object_store import ObjectStore
from libs.core.store.client import Database, Mongo
from libs.core.store.entities import EntityStore
from libs.core.store.leases import LeaseStore
from libs.core.store.outbox import Outbox
from libs.core.store.owner_quotas import OwnerQuotas
from libs.core.store.partitions import PartitionStore
from libs.core.store.quotas import Quota
from libs.core.store.runs import LiveRuns, RunFilter, RunStore
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.code.definition import CodeSources, ExecutableBuilder
from libs.docker_runner.containers.container import EndReason, ManagedContainer, RunOutcome
from libs.docker_runner.containers.returned import Payload, Returned
from libs.docker_runner.containers.run_records import Recorder
from libs.docker_runner.executable import Entrypoint
from libs.docker_runner.runs.collection import Collection
from libs.docker_runner.settings import OWNER_FIELD, RunnerSettings
from libs.notifications.notifier import Notifier
from libs.notifications.store import NotificationStore
from services.backtest_runner import objects
from services.backtest_runner.completion import Completion
from services.backtest_runner.pool import SegmentPool
from services.backtest_runner.result_spool import ResultSpool
from services.backtest_runner.slots import Slots
from services.backtest_runner.state import keeps_place
from services.backtest_runner.worker import segment_pool
from tests.support.fakes import fake_host
from tests.support.faults.deaths import Death, Mortal
from tools.stack.s3 import S3Server

RESULT_BYTES = 1 << 20
CUSTOM = {"config": {"runtime": "python3.11", "entrypoints": {"backtest": "main.py"}}, "filePath": "code.zip"}


@dataclass
class FakeHost(fake_host.FakeHost):
    """A Docker host whose runs return an object that names the run, after *run_seconds*; None: they never end.

    Args:
        folder: its disk.
        reasons: of the ends of the following runs; FINISHED when there are none left.
        first_together: no run ends before so many ran at once.
        padding: additional characters in each result.
    """

    folder: Path = Path("/nonexistent")
    run_seconds: float | None = 0.0
    reasons: list[EndReason] = field(default_factory=list)
    first_together: int = 0
    padding: int = 0
    runs: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        """Count the containers that are made."""
        super().__post_init__()
        self.made = self._count

    def _count(self, container: ManagedContainer) -> None:
        self.runs.append(container.id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)

    def end(self, container_id: str, code: int = 0) -> None:
        """The container's process ends, once enough have run together."""
        if container_id in self.stopped or self.most_at_once >= self.first_together:
            self.at_once -= container_id in self.containers and self._runs(self.containers[container_id])
            super().end(container_id, code)
        else:
            asyncio.get_running_loop().call_later(0.01, self.end, container_id, code)

    def reason_of(self, container: ManagedContainer) -> EndReason:
        """The next of the reasons."""
        return self.reasons.pop(0) if self.reasons else EndReason.FINISHED

    @contextlib.asynccontextmanager
    async def collecting(
        self,
        container: ManagedContainer,
        result_bytes: int,
        timeout_seconds: float,
        is_handed_over: Callable[[], bool] = lambda: False,
    ) -> AsyncIterator["FakeCollection"]:
        """As the docker runner."""
        try:
            yield FakeCollection(self, container)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and is_handed_over():
                raise
            await self.stop(container, 0.0)
            await self.remove(container)
            raise


class FakeCollection(Collection):
    """The output and the result of one container of *host*."""

    def __init__(self, host: FakeHost, container: ManagedContainer) -> None:
        super().__init__(asyncio.get_running_loop().create_future(), self._outcome)
        self._host = host
        self._container = container

    async def _outcome(self) -> RunOutcome:
        host, run_id = self._host, self._container.run_id
        ended = await host.remove(self._container)
        output = host.folder / f"{run_id}.log"
        output.write_text(f"output of {run_id}" + "." * host.padding)
        text = json.dumps({"run": run_id, "padding": "x" * host.padding}).encode()
        return RunOutcome(ended, Returned(Kind.OBJECT, Payload(text)), None, output)


class BacktestRig:
    """Segment 1 of one database, with the results in its own bucket."""

    def __init__(self, database: Database, store: ObjectStore, bucket: str, folder: Path) -> None:
        self.database = database
        self.store = store
        self.bucket = bucket
        self.folder = folder
        self.entities = EntityStore(database, "backtests", PartitionStore(database, "backtests", 1000))
        self.runs = RunStore(database)
        self.notifications = NotificationStore(database)
        self.notify = NotifySettings()
        self.outbox = Outbox(database)
        self.partitions_told = 0
        self.pool: SegmentPool | None = None
        """The pool of the current or last owner of the segment."""
        self._epochs = itertools.count(1)
        self.quota = Quota()
        """Of each author, for owners that begin later."""
        self.timeout_seconds = 5.0
        """The time limit of a run, for owners that begin later."""

    def quotas(self) -> OwnerQuotas:
        """Return the quotas of a worker."""
        live_runs = LiveRuns(self.runs, LeaseStore(self.database, 60.0))
        return OwnerQuotas(self.database, self.quota, self.entities, live_runs, OWNER_FIELD, keeps_place)

    async def prepare(self) -> None:
        """Create indexes and the bucket."""
        await self.entities.ensure_indexes()
        await self.runs.ensure_indexes()
        await self.notifications.ensure_indexes()
        await self.store.ensure_bucket(self.bucket)

    async def partitions_changed(self) -> None:
        """As the wake-ups."""
        self.partitions_told += 1

    async def publish(self, entity_id: str, subject: str, data: bytes, *, event_id: str) -> None:
        """As the publisher without NATS."""
        await self.outbox.append(entity_id, subject, data, event_id=event_id)

    async def announce(self, backtest_id: str = "b", **config: Any) -> None:
        """Create a backtest like an event."""
        await self.entities.create(backtest_id, config, CUSTOM)

    async def set(self, backtest_id: str, **fields: Any) -> None:
        """Change fields of a document by their dotted names, with __ for a dot."""
        changes = {name.replace("__", "."): value for name, value in fields.items()}
        await self.database["backtests"].update_one({"id": backtest_id}, {"$set": changes})

    async def events(self, backtest_id: str = "b") -> list[dict[str, Any]]:
        """Return the completion events that wait to be published."""
        found = self.database["outbox"].find({"entity_id": backtest_id})
        return [json.loads(document["data"]) async for document in found]

    async def analysis(self, backtest_id: str = "b") -> Any:
        """Return the result; None without one."""
        return json.loads(await self.read(objects.analysis_key(backtest_id)) or b"null")

    async def read(self, key: str) -> bytes | None:
        """Return an object of the bucket."""
        try:
            return await self.store.get(self.bucket, key)
        except ObjectMissing:
            return None

    async def left_in_storage(self, backtest_id: str = "b") -> list[str]:
        """Return the keys below the backtest's folder."""
        return [info.key async for info in self.store.list(self.bucket, objects.folder(backtest_id))]

    async def over(self, backtest_id: str = "b") -> bool:
        """Whether the document is removed."""
        return await self.entities.get(backtest_id) is None

    async def history(self, backtest_id: str = "b", *, ended: bool = True) -> list[RunRecord]:
        """Return its ended runs, or its open runs, latest first."""
        return await self.runs.list(RunFilter(entity_id=backtest_id, open=not ended), limit=1000)

    def host(self, name: str = "host", **more: Any) -> FakeHost:
        """A host with its own disk."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return FakeHost(name, folder=folder, **more)

    @contextlib.asynccontextmanager
    async def owned_by(
        self, host: FakeHost, *, death: Death | None = None, size: int = 5, max_retries: int = 3
    ) -> AsyncIterator[OwnedSegment]:
        """A worker that owns the segment during the block, and is then gone as if killed."""
        lease = Lease(1, Holder("w", "i", host.name), next(self._epochs), time.monotonic() + 3600)
        owned = OwnedSegment(lease)
        pool = self.pool = self._pool(owned, host, death or Death(), size, max_retries)
        host.changed = pool.container_changed
        task = asyncio.create_task(pool.run(), name="pool")
        try:
            yield owned
        finally:
            owned.lease = replace(lease, proven_until=0.0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _pool(self, owned: OwnedSegment, host: FakeHost, death: Death, size: int, max_retries: int) -> SegmentPool:
        entities: Any = Mortal(self.entities, death, "compare_and_set", "remove")
        spool = ResultSpool(host.folder / "spool")
        spool.open()
        executables = ExecutableBuilder(
            settings=RunnerSettings(temp_dir=host.folder),
            service="s",
            scope="x",
            entrypoint=Entrypoint.BACKTEST,
            code=CodeSources("bots"),
            segment=owned.segment_id,
            epoch=owned.epoch,
            worker="w",
            keepalive=None,
        )

        store: Any = Mortal(self.store, death, "put", "put_file", "compose", "remove")
        publisher: Any = Mortal(self, death, "publish")
        runs: Any = Mortal(self.runs, death, "finish")
        completion = Completion(
            entities=entities,
            store=store,
            bucket=self.bucket,
            publisher=publisher,
            changes=self,
            notifier=Notifier(self.notifications, self.notify, "backtest-runner", OWNER_FIELD),
        )
        return segment_pool(
            owned,
            Recorder("w", host.name),
            engine=host,
            containers=host.list,
            executables=executables,
            entities=entities,
            runs=runs,
            quotas=self.quotas(),
            spool=spool,
            completion=completion,
            slots=Slots(size),
            timeout_seconds=self.timeout_seconds,
            result_bytes=RESULT_BYTES,
            max_retries=max_retries,
            stop_grace_seconds=0.0,
            scan_interval_seconds=0.1,
        )


@pytest_asyncio.fixture(loop_scope="session", name="rig")
async def backtest_rig(
    mongo_uri: str, database_name: str, s3_server: S3Server, bucket_prefix: str, tmp_path: Path
) -> AsyncIterator[BacktestRig]:
    """A ready rig in its own database and bucket."""
    mongo = Mongo(mongo_uri)
    store = ObjectStore(
        StorageSettings(
            endpoint=s3_server.endpoint,
            access_key=SecretStr(s3_server.access_key),
            secret_key=SecretStr(s3_server.secret_key),
            secure=False,
        )
    )
    rig = BacktestRig(mongo.database(database_name), store, f"{bucket_prefix}results", tmp_path)
    await rig.prepare()
    yield rig
    await store.close()
    await mongo.close()
