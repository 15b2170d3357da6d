"""Lines of logs with their times and runs, out of a real S3 server and the spools of workers that come and go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest_asyncio

from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.logs.history import LogHistory
from libs.docker_runner.logs.line_reader import LineReader, Nowhere
from libs.docker_runner.logs.lines import Cursor, Line, Wanted, microseconds
from libs.docker_runner.logs.pipeline import LogPipeline
from tests.support.eventually import eventually
from tests.support.fakes.log_host import Host, ModelEngine, a_container, store_of
from tools.stack.s3 import S3Server

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest_asyncio.fixture(loop_scope="session")
async def host(s3_server: S3Server, bucket_prefix: str, tmp_path: Path) -> AsyncIterator[Host]:
    store = store_of(s3_server)
    await store.ensure_bucket(bucket_prefix)
    yield Host(ModelEngine(), store, bucket_prefix, tmp_path / "logs")
    await store.close()


def a_run(number: int, segment: int = 0) -> ManagedContainer:
    return replace(a_container(f"c{number}", segment=segment), run_id=f"run-{number}")


def stored(host: Host) -> LineReader:
    return LineReader(Nowhere(), LogHistory(host.store, host.bucket))


async def read(reader: LineReader, wanted: Wanted | None = None) -> list[Line]:
    return [line async for lines in reader.lines("b1", wanted or Wanted()) for line in lines]


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


class Follower:
    """Follows, stores its position, and continues there with another reader."""

    def __init__(self) -> None:
        self.cursor = Cursor()
        self.shown: list[Line] = []
        self._task: asyncio.Task[None] | None = None

    def follow(self, reader: LineReader, tail: int = 100) -> None:
        wanted = Wanted(tail=tail) if not self.shown else Wanted(after=Cursor.parse(str(self.cursor)))
        self._task = asyncio.create_task(self._follow(reader, wanted))

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def has(self, *texts: str) -> None:
        await eventually(lambda: [line.text for line in self.shown] == list(texts) or self._failed())

    def _failed(self) -> bool:
        if self._task is not None and self._task.done():
            self._task.result()
        return False

    async def _follow(self, reader: LineReader, wanted: Wanted) -> None:
        async with aclosing(reader.lines("b1", wanted, follow=True)) as batches:
            async for lines in batches:
                for line in lines:
                    self.cursor.show(line)
                    self.shown.append(line)


def here(host: Host, pipeline: LogPipeline) -> LineReader:
    return LineReader(pipeline.uploads, LogHistory(host.store, host.bucket))


async def promised(host: Host) -> bool:
    return bool([info async for info in host.store.list(host.bucket, ".the0/promises/")])


async def test_each_stored_line_has_its_time_run_and_place(host: Host) -> None:
    first, second = a_run(1), a_run(2)
    async with host.worker() as pipeline:
        pipeline.following.follow(first)
        for number in range(3):
            await host.engine.write(first, b"one %d\n" % number, after=timedelta(seconds=1))
        await host.engine.end(first)
        assert await pipeline.following.finish(first, 60)
        pipeline.following.follow(second)
        await host.engine.write(second, b"two\n", after=timedelta(seconds=60))
        assert await host.becomes(b"one 0\none 1\none 2\ntwo\n")

    lines = await read(stored(host))

    assert [(line.text, line.run, line.end, line.stream) for line in lines] == [
        ("one 0", "run-1", 6, "stdout"),
        ("one 1", "run-1", 12, "stdout"),
        ("one 2", "run-1", 18, "stdout"),
        ("two", "run-2", 4, "stdout"),
    ]
    assert [line.time for line in lines] == [NOON + timedelta(seconds=s) for s in (1, 2, 3, 63)]


async def test_worker_and_storage_tell_the_same_lines(host: Host) -> None:
    container = a_run(1)
    async with host.worker(interval_seconds=3600) as pipeline:
        pipeline.following.follow(container)
        for number in range(50):
            await host.engine.write(container, b"line %d\n" % number, after=timedelta(milliseconds=700))
            if number == 20:
                await eventually(lambda: (bot := pipeline.uploads.bot("b1")) is not None and bot.spool.pending_bytes)
                await pipeline.flush(60)
        await eventually(lambda: read_all_of(host, pipeline, 50))
        at_the_worker = await read(here(host, pipeline))
        tail = await read(here(host, pipeline), Wanted(tail=35))
        await pipeline.flush(60)

    assert await read(stored(host)) == at_the_worker
    assert tail == at_the_worker[-35:]
    assert await read(stored(host), Wanted(tail=35)) == tail


async def read_all_of(host: Host, pipeline: LogPipeline, number: int) -> bool:
    return len(await read(here(host, pipeline))) == number


async def test_lines_are_chosen_by_time_and_run_also_over_midnight(host: Host) -> None:
    first, second = a_run(1), a_run(2)
    host.engine.now = datetime(2026, 1, 31, 23, 59, 55, tzinfo=UTC)
    async with host.worker() as pipeline:
        pipeline.following.follow(first)
        for number in range(5):
            await host.engine.write(first, b"one %d\n" % number, after=timedelta(seconds=1))
        await host.engine.end(first)
        assert await pipeline.following.finish(first, 60)
        pipeline.following.follow(second)
        for number in range(5):
            await host.engine.write(second, b"two %d\n" % number, after=timedelta(seconds=1))
        assert await host.becomes(b"one 0\none 1\none 2\none 3\n")
        assert await host.becomes(b"one 4\ntwo 0\ntwo 1\ntwo 2\ntwo 3\ntwo 4\n", day="20260201")

    midnight = datetime(2026, 2, 1, tzinfo=UTC)
    since, until = microseconds(midnight - timedelta(seconds=1)), microseconds(midnight + timedelta(seconds=2))
    reader = stored(host)

    assert texts(await read(reader, Wanted(since_us=since, until_us=until))) == ["one 3", "one 4", "two 0", "two 1"]
    assert texts(await read(reader, Wanted(since_us=since, tail=2))) == ["two 3", "two 4"]
    assert texts(await read(reader, Wanted(run="run-1", tail=2))) == ["one 3", "one 4"]
    assert texts(await read(reader, Wanted(tail=7)))[:2] == ["one 3", "one 4"]


async def test_follower_whose_worker_is_killed_again_and_again_shows_each_line_once(host: Host) -> None:
    container, follower, logged = a_run(1), Follower(), []
    for life in range(8):
        async with host.worker(interval_seconds=0.05 if life % 2 else 3600) as pipeline:
            pipeline.following.follow(container)
            follower.follow(here(host, pipeline))
            # Equal lines: their texts do not identify them.
            for _ in range(10):
                logged.append("tick")
                await host.engine.write(container, b"tick\n", after=timedelta(milliseconds=100))
                await asyncio.sleep(0.003)
            if life % 3 == 0:
                await follower.has(*logged)
            await follower.stop()
    async with host.worker() as pipeline:
        pipeline.following.follow(container)
        follower.follow(here(host, pipeline))
        await follower.has(*logged)
        await follower.stop()
    assert [line.end for line in follower.shown] == [5 * (number + 1) for number in range(80)]


async def test_follower_goes_on_exactly_over_a_move_to_another_host_and_over_midnight(
    host: Host, tmp_path: Path
) -> None:
    other = Host(ModelEngine(), host.store, host.bucket, tmp_path / "other", name="host-2")
    host.engine.now = datetime(2026, 1, 31, 23, 59, 58, tzinfo=UTC)
    holder, follower = "first", Follower()
    old, new = a_run(1, segment=3), a_run(2, segment=3)
    async with (
        host.worker(owns=lambda _: holder == "first", interval_seconds=3600) as leaving,
        other.worker(owns=lambda _: holder == "second", interval_seconds=3600) as coming,
    ):
        leaving.begin(3, 1)
        leaving.following.follow(old)
        await host.engine.write(old, b"old\n", b"old\n")
        follower.follow(here(host, leaving))
        await follower.has("old", "old")
        await follower.stop()
        # The follower has lost its worker; these lines it has not seen.
        await host.engine.write(old, b"old\n", b"last\n", after=timedelta(seconds=3))
        leaving.leave(3)
        await eventually(partial(promised, host))
        await host.engine.end(old)
        leaving.finish_later(3, [old])
        holder = "second"
        other.engine.now = host.engine.now + timedelta(seconds=1)
        coming.begin(3, 2)
        coming.following.follow(new)
        await other.engine.write(new, b"new\n", b"new\n")
        await eventually(lambda: coming.uploads.bot("b1") is not None)
        follower.follow(here(other, coming))
        await follower.has("old", "old", "old", "last", "new", "new")
        await follower.stop()


async def test_lines_that_reach_the_storage_late_are_shown_late(host: Host, tmp_path: Path) -> None:
    other = Host(ModelEngine(), host.store, host.bucket, tmp_path / "other", name="host-2")
    old, new, follower = a_run(1, segment=3), a_run(2, segment=3), Follower()
    async with host.worker(interval_seconds=3600) as killed:
        killed.following.follow(old)
        await host.engine.write(old, b"old\n")
        follower.follow(here(host, killed))
        await follower.has("old")
        await follower.stop()
        await host.engine.write(old, b"unseen\n", after=timedelta(seconds=1))
        await eventually(lambda: (bot := killed.uploads.bot("b1")) is not None and bot.spool.pending_bytes > 200)
    other.engine.now = host.engine.now + timedelta(seconds=10)
    async with other.worker() as coming:
        coming.following.follow(new)
        await other.engine.write(new, b"new\n")
        await eventually(lambda: coming.uploads.bot("b1") is not None)
        follower.follow(here(other, coming))
        await follower.has("old", "new")

        async with host.worker(owns=lambda _: False):
            await follower.has("old", "new", "unseen")
        await follower.stop()


async def test_follower_without_a_worker_reads_the_storage_as_it_grows(host: Host) -> None:
    container, follower = a_run(1), Follower()
    async with host.worker() as pipeline:
        pipeline.following.follow(container)
        await host.engine.write(container, b"tick\n")
        assert await host.becomes(b"tick\n")
        follower.follow(stored(host))
        await follower.has("tick")
        await host.engine.write(container, b"tick\n", b"tick\n", after=timedelta(seconds=1))
        await follower.has("tick", "tick", "tick")
        await follower.stop()


async def test_storage_that_restarts_while_following_costs_no_line(bucket_prefix: str, tmp_path: Path) -> None:
    async with S3Server.start(tmp_path / "s3") as server:
        store = store_of(server)
        await store.ensure_bucket(bucket_prefix)
        host = Host(ModelEngine(), store, bucket_prefix, tmp_path / "logs")
        container, follower = a_run(1), Follower()
        async with host.worker() as pipeline:
            pipeline.following.follow(container)
            await host.engine.write(container, b"tick\n")
            assert await host.becomes(b"tick\n")
            follower.follow(here(host, pipeline))
            await follower.has("tick")
            await server.kill()
            await host.engine.write(container, b"tick\n" * 3, after=timedelta(seconds=1))
            await follower.has(*["tick"] * 4)
            await follower.stop()
            follower.follow(here(host, pipeline))
            await host.engine.write(container, b"tick\n", after=timedelta(seconds=1))
            await follower.has(*["tick"] * 5)
            await server.launch()
            assert await host.becomes(b"tick\n" * 5)
            await follower.stop()
        assert [line.end for line in await read(stored(host))] == [5, 10, 15, 20, 25]
        await store.close()


async def test_log_of_an_older_version_has_lines_without_times(host: Host) -> None:
    await host.store.put(host.bucket, "logs/b1/20260131.log", b"before\nthe upgrade\n")
    container = a_run(1)
    async with host.worker() as pipeline:
        pipeline.following.follow(container)
        await host.engine.write(container, b"after\n")
        assert await host.becomes(b"before\nthe upgrade\nafter\n")

    lines = await read(stored(host), Wanted(tail=2))

    assert [(line.text, line.time, line.run) for line in lines] == [("the upgrade", None, ""), ("after", NOON, "run-1")]
