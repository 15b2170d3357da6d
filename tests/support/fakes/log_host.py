"""A host whose bots' output is followed, with a model of its engine, for tests.

The model stores the output of containers, adds timestamps like Docker, and returns it from an instant on. The real
engine's behaviour is tested in log_pipeline_docker_test.py.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import SecretStr

from libs.core.config.connection_settings import StorageSettings
from libs.core.storage.errors import ObjectMissing
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.errors import EngineUnavailable
from libs.docker_runner.executable import Entrypoint
from libs.docker_runner.logs.budget import SpoolBudget
from libs.docker_runner.logs.handover import HandOver
from libs.docker_runner.logs.history import LogHistory
from libs.docker_runner.logs.objects import LogObjects
from libs.docker_runner.logs.open_logs import OpenLogs
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.logs.pipeline import LogPipeline
from libs.docker_runner.logs.reader import LogReader
from tests.support.eventually import eventually
from tools.stack.s3 import S3Server


@dataclass
class ModelEngine:
    """The output of containers by container id, as a list of timestamps and bytes."""

    written: dict[str, list[tuple[datetime, bytes]]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    reads: int = 0
    now: datetime = datetime(2026, 1, 31, 12, tzinfo=UTC)
    _away: bool = False
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def write(self, container: ManagedContainer, *pieces: bytes, after: timedelta = timedelta(0)) -> None:
        async with self._news:
            self.now += after
            self.written.setdefault(container.container_id, []).extend((self.now, piece) for piece in pieces)
            self._news.notify_all()

    async def end(self, container: ManagedContainer) -> None:
        async with self._news:
            self.ended.add(container.container_id)
            self._news.notify_all()

    async def go(self, away: bool) -> None:
        async with self._news:
            self._away = away
            self._news.notify_all()

    async def logs(
        self, container: ManagedContainer, since: datetime | None = None, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        index = 0
        self.reads += 1
        while True:
            if self._away:
                raise EngineUnavailable("logs", "planned")
            lines = self.written.get(container.container_id, [])
            while index < len(lines):
                stamp, data = lines[index]
                index += 1
                if since is None or stamp >= since:
                    yield LogLine(stamp.isoformat().replace("+00:00", "Z"), "stdout", data)
            async with self._news:
                if self._away or index < len(lines):
                    continue
                if not follow or container.container_id in self.ended:
                    return
                await self._news.wait()


def a_container(container_id: str, entity_id: str = "b1", segment: int = 0) -> ManagedContainer:
    return ManagedContainer(
        container_id=container_id,
        name=f"the0-bot-runner-{entity_id}",
        id=entity_id,
        service="bot-runner",
        scope="s",
        entrypoint=Entrypoint.BOT,
        segment=segment,
        spec_hash="",
        code_etag="",
        revision=1,
        run_id="r",
        epoch=1,
        worker="w",
        token="t",
    )


def store_of(server: S3Server) -> ObjectStore:
    return ObjectStore(
        StorageSettings(
            endpoint=server.endpoint,
            access_key=SecretStr(S3Server.access_key),
            secret_key=SecretStr(S3Server.secret_key),
        ),
        connect_timeout_seconds=0.5,
    )


@dataclass
class Host:
    """One Docker host: its engine, its disk, and its workers."""

    engine: ModelEngine
    store: ObjectStore
    bucket: str
    directory: Path
    name: str = "host-1"

    @asynccontextmanager
    async def worker(
        self,
        owns: Callable[[int], bool] = lambda segment: True,
        interval_seconds: float = 0.05,
        hand_over_seconds: float = 0.0,
        budget: SpoolBudget | None = None,
    ) -> AsyncIterator[LogPipeline]:
        """A worker's pipeline, killed at the end of the block."""
        logs = OpenLogs(self.directory, LogObjects(self.store, self.bucket), budget)
        # A loaded machine must not count as slow storage.
        turns = HandOver(self.store, self.bucket, place="", writer=self.name, owns=owns, rest_seconds=60.0)
        pipeline = LogPipeline(
            self.engine, logs, turns, interval_seconds=interval_seconds, hand_over_seconds=hand_over_seconds
        )
        running = asyncio.create_task(pipeline.run())
        try:
            yield pipeline
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def object(self, entity_id: str = "b1", day: str = "20260131") -> bytes:
        try:
            return await self.store.get(self.bucket, f"logs/{entity_id}/{day}.log")
        except ObjectMissing:
            return b""

    async def becomes(self, content: bytes, entity_id: str = "b1", day: str = "20260131") -> bool:
        """Return True once the day's object is *content*. Raises AssertionError when it is not in time."""

        async def equal() -> bool:
            return await self.object(entity_id, day) == content

        return await eventually(equal)

    def reader(self, pipeline: LogPipeline) -> LogReader:
        return LogReader(pipeline.uploads, LogHistory(self.store, self.bucket))
