"""The log pipeline from an engine to a real S3 server, with workers that are killed, replaced and cut off."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from libs.docker_runner.logs.budget import SpoolBudget
from libs.docker_runner.logs.history import LogHistory
from tests.support.eventually import eventually
from tests.support.fakes.log_host import Host, ModelEngine, a_container, store_of
from tools.stack.s3 import S3Server


@pytest_asyncio.fixture(loop_scope="session")
async def host(s3_server: S3Server, bucket_prefix: str, tmp_path: Path) -> AsyncIterator[Host]:
    store = store_of(s3_server)
    await store.ensure_bucket(bucket_prefix)
    yield Host(ModelEngine(), store, bucket_prefix, tmp_path / "logs")
    await store.close()


def on_disk(folder: Path) -> int:
    """The bytes of all files, those apart that just go."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


async def test_output_reaches_the_days_object_while_the_container_runs(host: Host) -> None:
    container = a_container("c1")
    async with host.worker() as pipeline:
        pipeline.following.follow(container)
        await host.engine.write(container, b"one\n", b"two\n")
        assert await host.becomes(b"one\ntwo\n")
        await host.engine.write(container, b"three\n")
        assert await host.becomes(b"one\ntwo\nthree\n")


async def test_finishing_reads_the_rest_of_the_output_and_uploads_it_at_once(host: Host) -> None:
    container = a_container("c1")
    async with host.worker(interval_seconds=3600) as pipeline:
        pipeline.following.follow(container)
        await host.engine.write(container, b"one\n")
        await host.engine.end(container)
        await host.engine.write(container, b"last words without newline")

        assert await pipeline.following.finish(container, 60)
        assert await host.becomes(b"one\nlast words without newline")


async def test_a_container_that_was_never_followed_can_be_finished(host: Host) -> None:
    container = a_container("c1")
    await host.engine.write(container, b"unseen\n")
    await host.engine.end(container)
    async with host.worker() as pipeline:
        assert await pipeline.following.finish(container, 60)
        assert await pipeline.following.finish(container, 60)
        assert await host.becomes(b"unseen\n")


async def test_workers_killed_at_any_moment_leave_no_gap_and_no_repeat(host: Host) -> None:
    container = a_container("c1")
    logged = b""
    for life in range(12):
        async with host.worker(interval_seconds=0.01) as pipeline:
            pipeline.following.follow(container)
            for number in range(life):
                line = b"life %d line %d\n" % (life, number)
                logged += line
                await host.engine.write(container, line, after=timedelta(milliseconds=number * 300))
                await asyncio.sleep(0.004)
    async with host.worker() as pipeline:
        pipeline.following.follow(container)
        assert await host.becomes(logged)


async def test_an_engine_that_restarts_is_read_on(host: Host) -> None:
    container = a_container("c1")
    async with host.worker() as pipeline:
        pipeline.following.follow(container)
        await host.engine.write(container, b"before\n")
        assert await host.becomes(b"before\n")
        await host.engine.go(away=True)
        await host.engine.write(container, b"meanwhile\n")
        await host.engine.go(away=False)
        assert await host.becomes(b"before\nmeanwhile\n")


async def test_midnight_divides_the_output(host: Host) -> None:
    container = a_container("c1")
    host.engine.now = datetime(2026, 1, 31, 23, 59, 59, 999999, tzinfo=UTC)
    async with host.worker() as pipeline:
        pipeline.following.follow(container)
        await host.engine.write(container, b"late\n")
        await host.engine.write(container, b"early\n", after=timedelta(microseconds=1))
        assert await host.becomes(b"late\n", day="20260131")
        assert await host.becomes(b"early\n", day="20260201")


async def test_two_containers_of_a_bot_share_the_day(host: Host) -> None:
    first, second = a_container("c1"), a_container("c2")
    async with host.worker() as pipeline:
        pipeline.following.follow(first)
        await host.engine.write(first, b"first\n")
        await host.engine.end(first)
        assert await pipeline.following.finish(first, 60)
        pipeline.following.follow(second)
        await host.engine.write(second, b"second\n")
        assert await host.becomes(b"first\nsecond\n")


async def test_ten_megabytes_in_lines_of_one_megabyte_and_binary_arrive_whole(host: Host) -> None:
    container = a_container("c1")
    # The engine gives a long line in pieces of 16 KiB.
    lines = [bytes([number]) * (1024 * 1024 - 1) + b"\n" for number in range(10)]
    pieces = [line[at : at + 16384] for line in lines for at in range(0, len(line), 16384)]
    async with host.worker() as pipeline:
        pipeline.following.follow(container)
        await host.engine.write(container, *pieces)
        assert await host.becomes(b"".join(lines))


async def test_a_superseded_worker_and_its_successor_do_not_write_twice(host: Host) -> None:
    container = a_container("c1")
    async with host.worker() as old:
        old.following.follow(container)
        await host.engine.write(container, b"one\n")
        assert await host.becomes(b"one\n")
        async with host.worker() as new:
            new.following.follow(container)
            await host.engine.write(container, b"two\n")
            assert await host.becomes(b"one\ntwo\n")
            assert host.engine.reads == 1, "the successor waits for the folder"


async def test_a_worker_that_lost_a_segment_lets_go_of_its_logs_at_once(host: Host) -> None:
    first, second = a_container("c1", segment=7), a_container("c2", segment=7)
    owns = True
    async with host.worker(interval_seconds=3600, hand_over_seconds=3600, owns=lambda segment: owns) as former:
        former.following.follow(first)
        await host.engine.write(first, b"written before the loss\n")
        await eventually(lambda: (bot := former.uploads.bot("b1")) is not None and bot.spool.pending_bytes)
        owns = False
        await host.engine.end(first)
        assert await former.following.finish(first, 60)
        await eventually(lambda: former.uploads.bot("b1") is None)

        async with host.worker(interval_seconds=0.1) as successor:
            successor.following.follow(second)
            await host.engine.write(second, b"written by the successor\n")
            assert await host.becomes(b"written before the loss\nwritten by the successor\n")


async def test_neighbour_reads_a_running_container_on_where_its_former_owner_left_it(host: Host) -> None:
    container = a_container("c1", segment=7)
    owns = True
    async with host.worker(interval_seconds=3600, hand_over_seconds=3600, owns=lambda segment: owns) as former:
        former.following.follow(container)
        await host.engine.write(container, b"before\n")
        await eventually(lambda: (bot := former.uploads.bot("b1")) is not None and bot.spool.pending_bytes)
        async with host.worker(interval_seconds=0.1) as neighbour:
            neighbour.following.follow(container)
            owns = False

            former.drop(7)

            await host.engine.write(container, b"after\n", after=timedelta(milliseconds=1))
            assert await host.becomes(b"before\nafter\n")
            assert not former.following.is_following(container)


async def test_segment_that_returns_to_a_worker_is_followed_again(host: Host) -> None:
    container, other = a_container("c1", segment=7), a_container("c2", "b2", segment=8)
    async with host.worker(interval_seconds=0.1) as pipeline:
        pipeline.following.follow(container)
        pipeline.following.follow(other)
        await host.engine.write(container, b"before\n")
        assert await host.becomes(b"before\n")

        pipeline.drop(7)
        pipeline.following.follow(container)
        await host.engine.write(container, b"after\n", after=timedelta(milliseconds=1))

        assert await host.becomes(b"before\nafter\n")
        assert pipeline.following.is_following(container)
        assert pipeline.following.is_following(other)


async def test_lost_segment_whose_containers_ended_is_read_to_the_end_and_its_logs_are_closed(host: Host) -> None:
    first = a_container("c1", segment=7)
    owns = True
    async with host.worker(interval_seconds=3600, hand_over_seconds=3600, owns=lambda segment: owns) as former:
        former.following.follow(first)
        await eventually(lambda: host.engine.reads)
        owns = False
        await host.engine.write(first, b"last words\n")
        await host.engine.end(first)

        former.end_soon(7)

        await eventually(lambda: former.uploads.bot("b1") is None)
        async with host.worker(interval_seconds=0.1):
            assert await host.becomes(b"last words\n")


async def test_a_start_does_not_wait_for_a_process_that_keeps_the_log(host: Host) -> None:
    first, second = a_container("c1"), a_container("c2")
    async with host.worker() as frozen:
        frozen.following.follow(first)
        await eventually(lambda: host.engine.reads)
        async with host.worker() as successor:
            await host.engine.end(second)
            for container in (first, second):
                began = asyncio.get_running_loop().time()

                assert not await successor.following.finish(container, 60)

                assert asyncio.get_running_loop().time() - began < 30


async def test_another_worker_of_the_host_uploads_what_a_killed_one_left(host: Host) -> None:
    container = a_container("c1", segment=7)
    async with host.worker(interval_seconds=3600) as killed:
        killed.following.follow(container)
        await host.engine.write(container, b"left behind\n")
        await eventually(lambda: (bot := killed.uploads.bot("b1")) is not None and bot.spool.pending_bytes)

    async with host.worker():
        assert await host.becomes(b"left behind\n")


async def test_rest_of_output_on_former_host_goes_beside_object(host: Host, tmp_path: Path) -> None:
    container = a_container("c1", segment=7)
    async with host.worker(interval_seconds=3600) as killed:
        killed.following.follow(container)
        await host.engine.write(container, b"last words on host 1\n")
        await eventually(lambda: (bot := killed.uploads.bot("b1")) is not None and bot.spool.pending_bytes)
    elsewhere = Host(ModelEngine(), host.store, host.bucket, tmp_path / "other", name="host-2")
    other = a_container("c2", segment=7)
    async with elsewhere.worker() as owner:
        owner.following.follow(other)
        await elsewhere.engine.write(other, b"first words on host 2\n")
        assert await host.becomes(b"first words on host 2\n")

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
        pipeline.following.follow(container)
        await host.engine.write(container, b"one\n")
        assert await host.becomes(b"one\n")
        owns = False
        await host.engine.write(container, b"two\n")
        await asyncio.sleep(0.3)
        assert await host.object() == b"one\n"
        owns = True
        assert await host.becomes(b"one\ntwo\n")


async def test_a_lease_that_ends_during_an_upload_ends_the_upload(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    container = a_container("c1")
    host.engine.now = datetime(2026, 1, 31, 23, 59, 59, 999999, tzinfo=UTC)
    owns = True
    put = host.store.put

    async def put_and_lose_the_lease(bucket: str, key: str, *more: Any, **options: Any) -> str:
        nonlocal owns
        etag = await put(bucket, key, *more, **options)
        owns = owns and not key.startswith("logs/")
        return etag

    monkeypatch.setattr(host.store, "put", put_and_lose_the_lease)
    async with host.worker(owns=lambda segment: owns, interval_seconds=3600) as pipeline:
        pipeline.following.follow(container)
        await host.engine.write(container, b"late\n")
        await host.engine.write(container, b"early\n", after=timedelta(microseconds=1))
        await eventually(lambda: len(list((host.directory / container.name).glob("*.spool"))) == 2)

        await pipeline.flush(60)

        assert not owns
        assert await host.object(day="20260131") == b"late\n"
        assert await host.object(day="20260201") == b""
        owns = True
        monkeypatch.undo()
        await pipeline.flush(60)
        assert await host.becomes(b"early\n", day="20260201")


async def test_a_storage_outage_is_caught_up_with(bucket_prefix: str, tmp_path: Path) -> None:
    async with S3Server.start(tmp_path / "s3") as server:
        store = store_of(server)
        await store.ensure_bucket(bucket_prefix)
        engine = ModelEngine()
        host = Host(engine, store, bucket_prefix, tmp_path / "logs")
        container = a_container("c1")
        async with host.worker() as pipeline:
            pipeline.following.follow(container)
            await engine.write(container, b"before\n")
            assert await host.becomes(b"before\n")
            await server.kill()
            await engine.write(container, b"meanwhile\n" * 1000)
            await eventually(lambda: (bot := pipeline.uploads.bot("b1")) is not None and bot.spool.pending_bytes > 1000)
            await server.launch()
            assert await host.becomes(b"before\n" + b"meanwhile\n" * 1000)
        await store.close()


async def test_output_flood_without_storage_is_bounded_on_disk_with_note_of_loss(
    bucket_prefix: str, tmp_path: Path
) -> None:
    async with S3Server.start(tmp_path / "s3") as server:
        store = store_of(server)
        await store.ensure_bucket(bucket_prefix)
        engine = ModelEngine()
        host = Host(engine, store, bucket_prefix, tmp_path / "logs")
        container = a_container("c1")
        await server.kill()
        async with host.worker(budget=SpoolBudget(each_bytes=1_000_000)) as pipeline:
            pipeline.following.follow(container)
            for _ in range(40):
                await engine.write(container, *[b"x" * 9_999 + b"\n" for _ in range(10)])
            await engine.end(container)
            await pipeline.following.finish(container)
            assert on_disk(tmp_path / "logs") < 1_200_000
            await server.launch()

            async def is_uploaded() -> bool:
                return b"bytes of output are missing here: the spool was full" in await host.object()

            await eventually(is_uploaded)
        await store.close()


async def test_many_bots_share_the_disk_while_the_storage_is_away_also_those_that_are_quiet(
    bucket_prefix: str, tmp_path: Path
) -> None:
    async with S3Server.start(tmp_path / "s3") as server:
        store = store_of(server)
        await store.ensure_bucket(bucket_prefix)
        engine = ModelEngine()
        host = Host(engine, store, bucket_prefix, tmp_path / "logs")
        await server.kill()

        quiet, *busy = (a_container(f"c{number}", entity_id=f"b{number}") for number in range(6))
        budget = SpoolBudget(total_bytes=24_000_000, each_bytes=16_000_000)
        async with host.worker(budget=budget, interval_seconds=0.5) as pipeline:
            pipeline.following.follow(quiet)
            await engine.write(quiet, *[b"x" * 99_999 + b"\n"] * 120)
            await eventually(lambda: on_disk(tmp_path / "logs") > 11_900_000)
            for container in busy:
                pipeline.following.follow(container)
                await engine.write(container, *[b"x" * 99_999 + b"\n"] * 80)
                await engine.end(container)
                await pipeline.following.finish(container)

            def shared() -> bool:
                each = [bot.spool.pending_bytes for number in range(6) if (bot := pipeline.uploads.bot(f"b{number}"))]
                # What is chosen for upload and what was written last cannot go.
                return len(each) == 6 and max(each) < 6_500_000 and on_disk(tmp_path / "logs") < 30_000_000

            await eventually(shared)
        await store.close()


async def test_flushing_uploads_what_would_have_waited(host: Host) -> None:
    container = a_container("c1")
    async with host.worker(interval_seconds=3600) as pipeline:
        pipeline.following.follow(container)
        await host.engine.write(container, b"one\n")
        await eventually(lambda: (bot := pipeline.uploads.bot("b1")) is not None and bot.spool.pending_bytes)

        await pipeline.flush()

        assert await host.becomes(b"one\n")


async def test_folders_go_when_their_container_is_gone_and_not_before(host: Host) -> None:
    container = a_container("c1")
    async with host.worker() as pipeline:
        pipeline.following.follow(container)
        await host.engine.write(container, b"one\n")
        await host.engine.end(container)
        await pipeline.following.finish(container)
        assert await host.becomes(b"one\n")
        await eventually(lambda: pipeline.uploads.bot("b1") is None)

        assert await pipeline.clean(live=["c1"]) == 0
        assert await pipeline.clean(live=["c2"]) == 1
        assert os.listdir(host.directory) == []


@pytest.mark.parametrize("entity_id", ["../x", "a\nb", "x" * 300, "größe 🚀"])
async def test_any_id_has_its_log(host: Host, entity_id: str) -> None:
    container = replace(a_container("c1"), id=entity_id)
    async with host.worker() as pipeline:
        pipeline.following.follow(container)
        await host.engine.write(container, b"one\n")
        history = LogHistory(host.store, host.bucket)

        async def there() -> bool:
            parts = await history.parts(entity_id)
            return [piece async for piece in history.read(parts)] == [b"one\n"]

        await eventually(there)
