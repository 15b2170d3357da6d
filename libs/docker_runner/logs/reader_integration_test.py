"""Reading a bot's log: out of a real S3 server, out of the spool, and along with its container."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest_asyncio

from libs.docker_runner.logs.history import LogHistory
from libs.docker_runner.logs.pipeline import LogPipeline
from tests.support.eventually import eventually
from tests.support.fakes.log_host import Host, ModelEngine, a_container, store_of
from tools.stack.s3 import S3Server


@pytest_asyncio.fixture(loop_scope="session")
async def host(s3_server: S3Server, bucket_prefix: str, tmp_path: Path) -> AsyncIterator[Host]:
    store = store_of(s3_server)
    await store.ensure_bucket(bucket_prefix)
    yield Host(ModelEngine(), store, bucket_prefix, tmp_path / "logs")
    await store.close()


async def read_until(reading: AsyncIterator[bytes], ending: bytes) -> bytes:
    content = b""
    async with asyncio.timeout(60):
        async for piece in reading:
            content += piece
            if content.endswith(ending):
                return content
    raise AssertionError(f"the output ended: {content!r}")


def spooled(pipeline: LogPipeline) -> bytes:
    """What is on the disk and not uploaded yet."""
    bot = pipeline.uploads.bot("b1")
    if bot is None:
        return b""
    with contextlib.closing(bot.spool.snapshot()) as snapshot:
        return b"".join(snapshot)


async def test_a_reader_gets_stored_and_spooled_output_and_then_what_comes_each_once(host: Host) -> None:
    container = a_container("c1")
    async with host.worker(interval_seconds=3600) as pipeline:
        pipeline.following.follow(container)
        await host.engine.write(container, b"stored\n")
        await eventually(lambda: spooled(pipeline).endswith(b"stored\n"))
        await pipeline.flush()
        await host.engine.write(container, b"spooled\n")
        await eventually(lambda: spooled(pipeline).endswith(b"spooled\n"))
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
        pipeline.following.follow(container)
        await host.engine.write(container, *[b"stored %d\n" % number for number in range(20_000)])
        await eventually(lambda: spooled(pipeline).endswith(b"stored 19999\n"))
        await pipeline.flush()
        await host.engine.write(container, b"spooled 1\n", b"spooled 2\n")
        await eventually(lambda: spooled(pipeline).endswith(b"spooled 2\n"))
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
        pipeline.following.follow(container)
        await host.engine.write(container, b"one\n")
        assert await host.becomes(b"one\n")
        reading = other.reader(elsewhere).output("b1", follow=True)
        assert await read_until(reading, b"one\n") == b"one\n"

        await host.engine.write(container, b"two\n", after=timedelta(seconds=2))

        assert await read_until(reading, b"two\n") == b"two\n"
        assert [part.day for part in await LogHistory(host.store, host.bucket).parts("b1")] == ["20260131", "20260201"]


async def test_a_reader_of_a_bot_that_never_wrote_gets_nothing(host: Host) -> None:
    async with host.worker() as pipeline:
        assert [piece async for piece in host.reader(pipeline).output("nobody")] == []


async def test_a_reader_that_was_there_before_the_bot_gets_its_output_as_it_comes(host: Host) -> None:
    container = a_container("c1")
    async with host.worker(interval_seconds=3600) as pipeline:
        reading = host.reader(pipeline).output("b1", tail_lines=10, follow=True)
        first = asyncio.ensure_future(read_until(reading, b"live\n"))
        await asyncio.sleep(0)
        pipeline.following.follow(container)
        await host.engine.write(container, b"live\n")

        assert await first == b"live\n"
        await host.engine.write(container, b"more\n")
        assert await read_until(reading, b"more\n") == b"more\n"
