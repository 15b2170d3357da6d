"""The log pipeline from an engine to a real S3 server, with workers that are killed, replaced and cut off.

The engine here is a model: it keeps what containers write, stamps it as Docker does, and gives it out from an instant
on. What the real one does is tested where the runner's ``logs`` is.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from libs.core.object_store import ObjectMissing, ObjectStore
from libs.core.settings import StorageSettings
from libs.docker_runner.container import ManagedContainer
from libs.docker_runner.errors import EngineUnavailable
from libs.docker_runner.executable import Entrypoint
from libs.docker_runner.log_history import LogHistory
from libs.docker_runner.log_pipeline import LogPipeline
from libs.docker_runner.log_reader import LogReader
from libs.docker_runner.output import LogLine
from tests.support.eventually import eventually
from tools.stack.s3 import S3Server


@dataclass
class ModelEngine:
    """Containers' output by container id, as a list of stamps and bytes."""

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


@pytest.fixture
def engine() -> ModelEngine:
    return ModelEngine()


@pytest_asyncio.fixture(loop_scope="session")
async def store(s3_server: S3Server, bucket_prefix: str) -> AsyncIterator[ObjectStore]:
    store = store_of(s3_server)
    await store.ensure_bucket(bucket_prefix)
    yield store
    await store.close()


@dataclass
class Host:
    """One Docker host: its engine, its disk, and workers that come and go."""

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
        spool_bytes: int = 64 * 1024 * 1024,
    ) -> AsyncIterator[LogPipeline]:
        """A worker's pipeline, killed at the end of the block."""
        pipeline = LogPipeline(
            self.engine,
            self.store,
            self.bucket,
            self.directory,
            writer=self.name,
            owns=owns,
            spool_bytes=spool_bytes,
            interval_seconds=interval_seconds,
            hand_over_seconds=hand_over_seconds,
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

    async def becomes(self, content: bytes, entity_id: str = "b1", day: str = "20260131") -> None:
        async def equal() -> bool:
            return await self.object(entity_id, day) == content

        await eventually(equal)

    def reader(self, pipeline: LogPipeline) -> LogReader:
        return LogReader(pipeline, LogHistory(self.store, self.bucket))


@pytest.fixture
def host(engine: ModelEngine, store: ObjectStore, bucket_prefix: str, tmp_path: Path) -> Host:
    return Host(engine, store, bucket_prefix, tmp_path / "logs")


async def test_output_reaches_the_days_object_while_the_container_runs(host: Host) -> None:
    container = a_container("c1")
    async with host.worker() as pipeline:
        pipeline.follow(container)
        await host.engine.write(container, b"one\n", b"two\n")
        await host.becomes(b"one\ntwo\n")
        await host.engine.write(container, b"three\n")
        await host.becomes(b"one\ntwo\nthree\n")


async def test_finishing_takes_the_last_words_and_uploads_them_at_once(host: Host) -> None:
    container = a_container("c1")
    async with host.worker(interval_seconds=3600) as pipeline:
        pipeline.follow(container)
        await host.engine.write(container, b"one\n")
        await host.engine.end(container)
        await host.engine.write(container, b"last words without newline")

        assert await pipeline.finish(container)
        await host.becomes(b"one\nlast words without newline")


async def test_a_container_that_was_never_followed_can_be_finished(host: Host) -> None:
    container = a_container("c1")
    await host.engine.write(container, b"unseen\n")
    await host.engine.end(container)
    async with host.worker() as pipeline:
        assert await pipeline.finish(container)
        assert await pipeline.finish(container)
        await host.becomes(b"unseen\n")


async def test_workers_killed_at_any_moment_leave_no_gap_and_no_repeat(host: Host) -> None:
    container = a_container("c1")
    logged = b""
    for life in range(12):
        async with host.worker(interval_seconds=0.01) as pipeline:
            pipeline.follow(container)
            for number in range(life):
                line = b"life %d line %d\n" % (life, number)
                logged += line
                await host.engine.write(container, line, after=timedelta(milliseconds=number * 300))
                await asyncio.sleep(0.004)
    async with host.worker() as pipeline:
        pipeline.follow(container)
        await host.becomes(logged)


async def test_an_engine_that_restarts_is_read_on(host: Host) -> None:
    container = a_container("c1")
    async with host.worker() as pipeline:
        pipeline.follow(container)
        await host.engine.write(container, b"before\n")
        await host.becomes(b"before\n")
        await host.engine.go(away=True)
        await host.engine.write(container, b"meanwhile\n")
        await host.engine.go(away=False)
        await host.becomes(b"before\nmeanwhile\n")


async def test_midnight_divides_the_output(host: Host) -> None:
    container = a_container("c1")
    host.engine.now = datetime(2026, 1, 31, 23, 59, 59, 999999, tzinfo=UTC)
    async with host.worker() as pipeline:
        pipeline.follow(container)
        await host.engine.write(container, b"late\n")
        await host.engine.write(container, b"early\n", after=timedelta(microseconds=1))
        await host.becomes(b"late\n", day="20260131")
        await host.becomes(b"early\n", day="20260201")


async def test_two_containers_of_a_bot_share_the_day(host: Host) -> None:
    first, second = a_container("c1"), a_container("c2")
    async with host.worker() as pipeline:
        pipeline.follow(first)
        await host.engine.write(first, b"first\n")
        await host.engine.end(first)
        await pipeline.finish(first)
        pipeline.follow(second)
        await host.engine.write(second, b"second\n")
        await host.becomes(b"first\nsecond\n")


async def test_ten_megabytes_in_lines_of_one_megabyte_and_binary_arrive_whole(host: Host) -> None:
    container = a_container("c1")
    # The engine gives a long line in pieces of 16 KiB.
    lines = [bytes([number]) * (1024 * 1024 - 1) + b"\n" for number in range(10)]
    pieces = [line[at : at + 16384] for line in lines for at in range(0, len(line), 16384)]
    async with host.worker() as pipeline:
        pipeline.follow(container)
        await host.engine.write(container, *pieces)
        await host.becomes(b"".join(lines))


async def test_a_superseded_worker_and_its_successor_do_not_write_twice(host: Host) -> None:
    container = a_container("c1")
    async with host.worker() as old:
        old.follow(container)
        await host.engine.write(container, b"one\n")
        await host.becomes(b"one\n")
        async with host.worker() as new:
            new.follow(container)
            await host.engine.write(container, b"two\n")
            await host.becomes(b"one\ntwo\n")
            assert host.engine.reads == 1, "the successor waits for the folder"


async def test_another_worker_of_the_host_uploads_what_a_killed_one_left(host: Host) -> None:
    container = a_container("c1", segment=7)
    async with host.worker(interval_seconds=3600) as killed:
        killed.follow(container)
        await host.engine.write(container, b"left behind\n")
        await eventually(lambda: (bot := killed.bot("b1")) is not None and bot.spool.pending_bytes)

    async with host.worker():
        await host.becomes(b"left behind\n")


async def test_what_is_left_where_the_bot_is_no_longer_owned_goes_beside_its_object(host: Host, tmp_path: Path) -> None:
    container = a_container("c1", segment=7)
    async with host.worker(interval_seconds=3600) as killed:
        killed.follow(container)
        await host.engine.write(container, b"last words on host 1\n")
        await eventually(lambda: (bot := killed.bot("b1")) is not None and bot.spool.pending_bytes)
    elsewhere = Host(ModelEngine(), host.store, host.bucket, tmp_path / "other", name="host-2")
    other = a_container("c2", segment=7)
    async with elsewhere.worker() as owner:
        owner.follow(other)
        await elsewhere.engine.write(other, b"first words on host 2\n")
        await host.becomes(b"first words on host 2\n")

        async with host.worker(owns=lambda segment: segment != 7):
            history = LogHistory(host.store, host.bucket)

            async def both() -> bool:
                return len(await history.parts("b1")) == 2

            await eventually(both)

    parts = await history.parts("b1")
    assert await host.object() == b"first words on host 2\n"
    assert b"".join([piece async for piece in history.read(parts)]) == (
        b"first words on host 2\nlast words on host 1\n"
    )


async def test_a_worker_that_cannot_prove_its_lease_uploads_nothing_of_a_bot_that_runs(host: Host) -> None:
    container = a_container("c1")
    owns = True
    async with host.worker(owns=lambda segment: owns) as pipeline:
        pipeline.follow(container)
        await host.engine.write(container, b"one\n")
        await host.becomes(b"one\n")
        owns = False
        await host.engine.write(container, b"two\n")
        await asyncio.sleep(0.3)
        assert await host.object() == b"one\n"
        owns = True
        await host.becomes(b"one\ntwo\n")


async def test_a_storage_outage_is_caught_up_with(engine: ModelEngine, bucket_prefix: str, tmp_path: Path) -> None:
    async with S3Server.start(tmp_path / "s3") as server:
        store = store_of(server)
        await store.ensure_bucket(bucket_prefix)
        host = Host(engine, store, bucket_prefix, tmp_path / "logs")
        container = a_container("c1")
        async with host.worker() as pipeline:
            pipeline.follow(container)
            await engine.write(container, b"before\n")
            await host.becomes(b"before\n")
            await server.kill()
            await engine.write(container, b"meanwhile\n" * 1000)
            await eventually(lambda: (bot := pipeline.bot("b1")) is not None and bot.spool.pending_bytes > 1000)
            await server.launch()
            await host.becomes(b"before\n" + b"meanwhile\n" * 1000)
        await store.close()


async def test_a_flood_while_the_storage_is_away_is_bounded_on_disk_and_says_what_is_missing(
    engine: ModelEngine, bucket_prefix: str, tmp_path: Path
) -> None:
    async with S3Server.start(tmp_path / "s3") as server:
        store = store_of(server)
        await store.ensure_bucket(bucket_prefix)
        host = Host(engine, store, bucket_prefix, tmp_path / "logs")
        container = a_container("c1")
        await server.kill()
        async with host.worker(spool_bytes=1_000_000) as pipeline:
            pipeline.follow(container)
            for _ in range(40):
                await engine.write(container, *[b"x" * 9_999 + b"\n" for _ in range(10)])
            await engine.end(container)
            await pipeline.finish(container)
            size = sum(path.stat().st_size for path in (tmp_path / "logs").rglob("*") if path.is_file())
            assert size < 1_200_000
            await server.launch()

            async def told() -> bool:
                return b"bytes of output are missing here: the spool was full" in await host.object()

            await eventually(told)
        await store.close()


async def test_flushing_uploads_what_would_have_waited(host: Host) -> None:
    container = a_container("c1")
    async with host.worker(interval_seconds=3600) as pipeline:
        pipeline.follow(container)
        await host.engine.write(container, b"one\n")
        await eventually(lambda: (bot := pipeline.bot("b1")) is not None and bot.spool.pending_bytes)

        await pipeline.flush()

        assert await host.object() == b"one\n"


async def test_folders_go_when_their_container_is_gone_and_not_before(host: Host) -> None:
    container = a_container("c1")
    async with host.worker() as pipeline:
        pipeline.follow(container)
        await host.engine.write(container, b"one\n")
        await host.engine.end(container)
        await pipeline.finish(container)
        await host.becomes(b"one\n")
        await eventually(lambda: pipeline.bot("b1") is None)

        assert await pipeline.clean(live=["c1"]) == 0
        assert await pipeline.clean(live=["c2"]) == 1
        assert os.listdir(host.directory) == []


@pytest.mark.parametrize("entity_id", ["../x", "a\nb", "x" * 300, "größe 🚀"])
async def test_any_id_has_its_log(host: Host, entity_id: str) -> None:
    container = a_container("c1", entity_id="odd")
    container = ManagedContainer(**{**container.__dict__, "id": entity_id})
    async with host.worker() as pipeline:
        pipeline.follow(container)
        await host.engine.write(container, b"one\n")
        history = LogHistory(host.store, host.bucket)

        async def there() -> bool:
            parts = await history.parts(entity_id)
            return [piece async for piece in history.read(parts)] == [b"one\n"]

        await eventually(there)


# --- reading


async def read_until(reading: AsyncIterator[bytes], ending: bytes) -> bytes:
    content = b""
    async with asyncio.timeout(5):
        async for piece in reading:
            content += piece
            if content.endswith(ending):
                return content
    raise AssertionError(f"the output ended: {content!r}")


async def test_a_reader_gets_stored_and_spooled_output_and_then_what_comes_each_once(host: Host) -> None:
    container = a_container("c1")
    async with host.worker(interval_seconds=3600) as pipeline:
        pipeline.follow(container)
        await host.engine.write(container, b"stored\n")
        await eventually(lambda: (bot := pipeline.bot("b1")) is not None and bot.spool.pending_bytes)
        await pipeline.flush()
        await host.engine.write(container, b"spooled\n")
        await eventually(lambda: (bot := pipeline.bot("b1")) is not None and bot.spool.pending_bytes)
        reading = host.reader(pipeline).output("b1", follow=True)

        assert await read_until(reading, b"spooled\n") == b"stored\nspooled\n"
        await host.engine.write(container, b"live\n")
        assert await read_until(reading, b"live\n") == b"live\n"
        await pipeline.flush()
        await host.engine.write(container, b"after\n")
        assert await read_until(reading, b"after\n") == b"after\n"


async def test_a_reader_may_ask_for_the_last_lines(host: Host) -> None:
    container = a_container("c1")
    async with host.worker(interval_seconds=3600) as pipeline:
        pipeline.follow(container)
        await host.engine.write(container, *[b"stored %d\n" % number for number in range(20_000)])
        await eventually(lambda: (bot := pipeline.bot("b1")) is not None and bot.spool.pending_bytes)
        await pipeline.flush()
        await host.engine.write(container, b"spooled 1\n", b"spooled 2\n")
        await eventually(lambda: (bot := pipeline.bot("b1")) is not None and bot.spool.pending_bytes)
        reader = host.reader(pipeline)

        async def last(lines: int) -> bytes:
            return b"".join([piece async for piece in reader.output("b1", tail_lines=lines)])

        assert await last(1) == b"spooled 2\n"
        assert await last(4) == b"stored 19998\nstored 19999\nspooled 1\nspooled 2\n"
        assert (await last(15_000)).startswith(b"stored 5002\n")


async def test_a_reader_where_the_bot_is_not_reads_the_objects(host: Host, tmp_path: Path) -> None:
    container = a_container("c1")
    host.engine.now = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
    other = Host(ModelEngine(), host.store, host.bucket, tmp_path / "other", name="host-2")
    async with host.worker() as pipeline, other.worker() as elsewhere:
        pipeline.follow(container)
        await host.engine.write(container, b"one\n")
        await host.becomes(b"one\n")
        reading = other.reader(elsewhere).output("b1", follow=True)
        assert await read_until(reading, b"one\n") == b"one\n"

        await host.engine.write(container, b"two\n", after=timedelta(seconds=2))

        assert await read_until(reading, b"two\n") == b"two\n"
        assert [part.day for part in await LogHistory(host.store, host.bucket).parts("b1")] == ["20260131", "20260201"]


async def test_a_reader_of_a_bot_that_never_wrote_gets_nothing(host: Host) -> None:
    async with host.worker() as pipeline:
        assert [piece async for piece in host.reader(pipeline).output("nobody")] == []
