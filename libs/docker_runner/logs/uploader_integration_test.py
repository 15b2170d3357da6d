"""Uploading to a real S3 server: objects hold the output once, although processes are killed and requests fail."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from libs.core.config.connection_settings import StorageSettings
from libs.core.room import MIB
from libs.core.storage.errors import ObjectMissing, StorageUnavailable
from libs.core.storage.object_store import ObjectInfo, ObjectStore
from libs.docker_runner.logs.history import LogHistory
from libs.docker_runner.logs.line_reader import LineReader, Nowhere
from libs.docker_runner.logs.lines import Wanted
from libs.docker_runner.logs.objects import LogObjects, whole_in_pieces
from libs.docker_runner.logs.position import BEGINNING
from libs.docker_runner.logs.spans import Span
from libs.docker_runner.logs.spool import LogSpool
from libs.docker_runner.logs.uploader import LogUploader
from tools.stack.s3 import S3Server

DAY = "20260131"


class FaultyStore(ObjectStore):
    """The real store, in which planned writes fail: before they happen, or after, so that only the answer is lost."""

    def __init__(self, settings: StorageSettings) -> None:
        super().__init__(settings)
        self.faults: Iterator[str] = iter(())

    async def put(self, bucket: str, key: str, content: bytes, content_type: str = "") -> str:
        return await self._faulty(super().put(bucket, key, content, content_type))

    async def compose(self, bucket: str, key: str, pieces: object, content_type: str = "") -> str:
        return await self._faulty(super().compose(bucket, key, pieces, content_type))  # type: ignore[arg-type]

    async def _faulty(self, writing: object) -> str:
        fault = next(self.faults, "none")
        if fault == "before":
            writing.close()  # type: ignore[attr-defined]
            raise StorageUnavailable("write", "planned")
        etag: str = await writing  # type: ignore[misc]
        if fault == "after":
            raise StorageUnavailable("write", "planned")
        return etag


@pytest_asyncio.fixture(loop_scope="session")
async def store(s3_server: S3Server) -> AsyncIterator[FaultyStore]:
    store = FaultyStore(
        StorageSettings(
            endpoint=s3_server.endpoint,
            access_key=SecretStr(S3Server.access_key),
            secret_key=SecretStr(S3Server.secret_key),
        )
    )
    yield store
    await store.close()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest_asyncio.fixture(loop_scope="session")
async def bucket(store: FaultyStore, bucket_prefix: str) -> str:
    await store.ensure_bucket(bucket_prefix)
    return bucket_prefix


class Writer:
    """One worker process's life with one spool."""

    def __init__(self, store: ObjectStore, bucket: str, folder: Path, executor: ThreadPoolExecutor) -> None:
        self.store, self.bucket = store, bucket
        self.spool = LogSpool(folder)
        self.uploader = LogUploader(self.spool, LogObjects(store, bucket), executor)

    def log(self, payload: bytes, day: str = DAY, container: str = "c1", run: str = "") -> None:
        position = self.spool.position(container) or BEGINNING
        spans = [Span(run, position.taken_bytes, len(payload), 1_769_817_600_000_000, 1)] if run else []
        after = position.taking(position.newest_ns + 1, len(payload))
        self.spool.append(container, day, payload, after, spans)

    async def upload(self, name: str = "b1") -> None:
        await self.uploader.upload(lambda day: f"logs/{name}/{day}.log")

    async def object(self, name: str = "b1", day: str = DAY) -> bytes:
        try:
            return await self.store.get(self.bucket, f"logs/{name}/{day}.log")
        except ObjectMissing:
            return b""


@pytest.fixture
def writer(store: FaultyStore, bucket: str, tmp_path: Path, executor: ThreadPoolExecutor) -> Writer:
    return Writer(store, bucket, tmp_path / "spool", executor)


async def keys(store: ObjectStore, bucket: str) -> list[str]:
    return [info.key async for info in store.list(bucket, "")]


async def test_an_object_grows_from_nothing_past_the_smallest_part_and_is_whole_each_time(writer: Writer) -> None:
    logged = b""
    for size in (10, 1000, 200_000, 300, 2 * MIB, 3 * MIB, 10, 6 * MIB, 1):
        payload = os.urandom(size)
        logged += payload
        writer.log(payload)

        await writer.upload()

        assert await writer.object() == logged

    await writer.uploader.forget()
    assert await keys(writer.store, writer.bucket) == [".the0/filler-5MiB", f"logs/b1/{DAY}.log"]


async def test_sent_bytes_barely_exceed_logged_bytes(writer: Writer) -> None:
    logged = 0
    for _ in range(15):
        writer.log(os.urandom(1_000_000))
        logged += 1_000_000
        await writer.upload()

    assert writer.store.bytes_sent <= 1.02 * logged + 5 * MIB + 64 * 1024
    assert len(await writer.object()) == logged


@pytest.mark.parametrize("size", [5 * MIB, 255 * MIB, 256 * MIB, 512 * MIB - 1, 5000 * MIB + 17])
def test_a_large_object_is_copied_in_pieces_that_a_server_takes(size: int) -> None:
    pieces = whole_in_pieces("key", ObjectInfo("key", size, "etag", datetime.now(UTC)))

    ends = [piece.offset + (piece.length or size - piece.offset) for piece in pieces]
    assert [piece.offset for piece in pieces] == [0, *ends[:-1]]
    assert ends[-1] == size
    assert all(5 * MIB <= end - piece.offset < 512 * MIB for piece, end in zip(pieces, ends, strict=True))


async def test_many_small_additions_to_a_middling_object_do_not_send_it_again(writer: Writer) -> None:
    writer.log(os.urandom(1_000_000))
    await writer.upload()
    writer.log(b"first padded\n")
    await writer.upload()
    sent = writer.store.bytes_sent

    for _ in range(20):
        writer.log(b"a line\n")
        await writer.upload()

    assert writer.store.bytes_sent - sent == 20 * 7


@pytest.mark.parametrize("lines", [1, 70, 6000])
@pytest.mark.parametrize("kind", ["before", "after"])
@pytest.mark.parametrize("writes_before", range(4))
async def test_index_covers_the_whole_log_whichever_write_fails(
    writer: Writer, tmp_path: Path, executor: ThreadPoolExecutor, lines: int, kind: str, writes_before: int
) -> None:
    writer.log(b"first\n", run="r")
    writer.log((b"x" * 999 + b"\n") * lines, run="r")
    await writer.upload()
    writer.log(b"then\n", run="r")
    writer.store.faults = iter(["none"] * writes_before + [kind])  # type: ignore[attr-defined]
    with suppress(StorageUnavailable):
        await writer.upload()
    writer.store.faults = iter(())  # type: ignore[attr-defined]
    # The process is killed, and its successor has more to add.
    successor = Writer(writer.store, writer.bucket, tmp_path / "spool", executor)
    successor.log(b"last\n", run="r")

    await successor.upload()

    reader = LineReader(Nowhere(), LogHistory(writer.store, writer.bucket))
    found = [line async for some in reader.lines("b1", Wanted()) for line in some]
    long = [("x" * 999, "r", 6 + 1000 * (number + 1)) for number in range(lines)]
    end = 6 + 1000 * lines
    expected = [("first", "r", 6), *long, ("then", "r", end + 5), ("last", "r", end + 10)]
    assert [(line.text, line.run, line.end) for line in found] == expected


async def test_output_of_two_days_goes_to_two_objects(writer: Writer) -> None:
    writer.log(b"late\n", day="20260131")
    writer.log(b"early\n", day="20260201")

    await writer.upload()

    assert await writer.object(day="20260131") == b"late\n"
    assert await writer.object(day="20260201") == b"early\n"


async def test_an_upload_that_may_not_go_on_leaves_the_rest_in_the_spool(writer: Writer) -> None:
    writer.log(b"late\n", day="20260131")
    writer.log(b"early\n", day="20260201")
    keys = iter(["logs/b1/20260131.log", None])

    await writer.uploader.upload(lambda day: next(keys))

    assert (await writer.object(day="20260131"), await writer.object(day="20260201")) == (b"late\n", b"")
    await writer.upload()
    assert (await writer.object(day="20260131"), await writer.object(day="20260201")) == (b"late\n", b"early\n")


async def test_two_containers_of_a_bot_share_the_day(writer: Writer) -> None:
    writer.log(b"first\n", container="c1")
    await writer.upload()
    writer.log(b"second\n", container="c2")
    await writer.upload()

    assert await writer.object() == b"first\nsecond\n"


async def test_another_host_goes_on_where_the_last_owner_stopped(
    writer: Writer, tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    writer.log(os.urandom(300_000))
    await writer.upload()
    first = await writer.object()
    other = Writer(writer.store, writer.bucket, tmp_path / "other", executor)

    other.log(b"from elsewhere\n")
    await other.upload()
    writer.log(b"and back\n")
    await writer.upload()

    assert await writer.object() == first + b"from elsewhere\nand back\n"


async def test_an_addition_whose_answer_was_lost_is_not_repeated_even_when_others_have_added_since(
    writer: Writer, tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    writer.log(b"mine\n")
    writer.store.faults = iter(["after"])  # type: ignore[attr-defined]
    with pytest.raises(StorageUnavailable):
        await writer.upload()
    other = Writer(writer.store, writer.bucket, tmp_path / "other", executor)
    other.log(b"theirs\n")
    await other.upload()

    await writer.upload()

    assert await writer.object() == b"mine\ntheirs\n"


async def test_binary_output_and_lines_of_a_megabyte_arrive_as_they_are(writer: Writer) -> None:
    logged = bytes(range(256)) * 10 + b"x" * MIB + b"\n" + b"\xff\xfe\x00"
    writer.log(logged)

    await writer.upload()

    assert await writer.object() == logged


async def test_a_bucket_and_helpers_that_were_removed_are_made_again(writer: Writer) -> None:
    writer.log(os.urandom(300_000))
    await writer.upload()
    writer.log(b"a line\n")
    await writer.upload()
    for key in await keys(writer.store, writer.bucket):
        if not key.startswith("logs/"):
            await writer.store.remove(writer.bucket, key)

    writer.log(b"another\n")
    await writer.upload()

    assert (await writer.object()).endswith(b"a line\nanother\n")


async def test_without_the_storage_output_waits_and_then_arrives_whole(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    async with S3Server.start(tmp_path / "s3") as server:
        store = ObjectStore(
            StorageSettings(
                endpoint=server.endpoint,
                access_key=SecretStr(S3Server.access_key),
                secret_key=SecretStr(S3Server.secret_key),
            )
        )
        writer = Writer(store, "logs-bucket", tmp_path / "spool", executor)
        writer.log(b"before\n")
        await writer.upload()
        await server.kill()
        writer.log(b"meanwhile\n")
        with pytest.raises(StorageUnavailable):
            await writer.upload()
        await server.launch()
        writer.log(b"after\n")

        await writer.upload()

        assert await writer.object() == b"before\nmeanwhile\nafter\n"
        await store.close()


async def test_sweep_removes_remains_of_killed_processes(writer: Writer) -> None:
    await writer.store.put(writer.bucket, ".the0/append/abc/part-1", b"left")
    objects = LogObjects(writer.store, writer.bucket)

    assert await objects.sweep() == 0
    assert await objects.sweep(older_than=timedelta(0)) == 1
    assert await keys(writer.store, writer.bucket) == []


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("log"), st.sampled_from([1, 50, 3000, 70_000, 900_000, 6_000_000])),
        st.tuples(st.just("upload"), st.just(0)),
        st.tuples(st.just("kill"), st.just(0)),
    ),
    max_size=14,
)
FAULTS = st.lists(st.sampled_from(["none", "none", "none", "before", "after"]), max_size=20)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS, FAULTS, st.integers(0, 2**64))
async def test_whatever_fails_or_is_killed_the_object_equals_what_was_logged(
    store: FaultyStore,
    bucket: str,
    tmp_path: Path,
    executor: ThreadPoolExecutor,
    actions: list[tuple[str, int]],
    faults: list[str],
    salt: int,
) -> None:
    name = os.urandom(8).hex()
    writer = Writer(store, bucket, tmp_path / name, executor)
    store.faults = iter(faults)
    logged = b""
    for number, (action, size) in enumerate(actions):
        if action == "log":
            payload = (b"%d-%d " % (salt, number) * (size // 10 + 1))[:size]
            logged += payload
            writer.log(payload)
        elif action == "kill":
            writer = Writer(store, bucket, tmp_path / name, executor)
        else:
            try:
                await writer.upload(name)
            except StorageUnavailable:
                continue
    store.faults = iter(())

    await Writer(store, bucket, tmp_path / name, executor).upload(name)

    assert await writer.object(name) == logged


async def test_an_upload_that_is_cancelled_is_gone_on_with(writer: Writer) -> None:
    logged = b""
    for number in range(20):
        payload = os.urandom(100_000)
        logged += payload
        writer.log(payload)
        uploading = asyncio.create_task(writer.upload())
        await asyncio.sleep(0.003 * number)
        uploading.cancel()
        await asyncio.gather(uploading, return_exceptions=True)

    await writer.upload()

    assert await writer.object() == logged
