"""The code cache on a real S3 server and a real disk: one download, no eviction of what is mounted, no wreckage."""

import asyncio
import hashlib
import io
import multiprocessing
import os
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from libs.core.config.connection_settings import StorageSettings
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.code.cache import CodeCache
from libs.docker_runner.errors import ArchiveRejected, CodeMissing, CodeReplaced, CodeUnavailable
from libs.docker_runner.executable import CodeRef
from tests.support.eventually import eventually
from tests.support.loop_time import busiest_seconds
from tools.stack.s3 import S3Server


class CountingStore(ObjectStore):
    """The real store, which counts the downloads."""

    downloads = 0

    async def get_to_file(self, bucket: str, key: str, path: Path, *, etag: str, max_bytes: int) -> int:
        self.downloads += 1
        return await super().get_to_file(bucket, key, path, etag=etag, max_bytes=max_bytes)


def store_of(server: S3Server) -> CountingStore:
    return CountingStore(
        StorageSettings(
            endpoint=server.endpoint,
            access_key=SecretStr(S3Server.access_key),
            secret_key=SecretStr(S3Server.secret_key),
        ),
        connect_timeout_seconds=0.5,
    )


def code(text: str, size: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("main.py", text)
        archive.writestr("data", os.urandom(size))
    return buffer.getvalue()


@pytest_asyncio.fixture(loop_scope="session")
async def store(s3_server: S3Server, bucket_prefix: str) -> AsyncIterator[CountingStore]:
    store = store_of(s3_server)
    await store.ensure_bucket(bucket_prefix)
    yield store
    await store.close()


@pytest_asyncio.fixture(loop_scope="session")
async def cache(store: CountingStore, tmp_path: Path) -> AsyncIterator[CodeCache]:
    cache = CodeCache(store, tmp_path / "code", max_bytes=10_000_000, keep_seconds=0)
    await cache.open()
    yield cache
    await cache.close()


@pytest.fixture
def ref(bucket_prefix: str) -> CodeRef:
    return CodeRef(bucket_prefix, "bots/one/v1")


def left_behind(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "code/work")


async def test_ten_concurrent_requests_cause_one_download(store: CountingStore, cache: CodeCache, ref: CodeRef) -> None:
    etag = await store.put(ref.bucket, ref.key, code("1"))

    trees = await asyncio.gather(*[cache.fetch(ref) for _ in range(10)])

    assert {tree.etag for tree in trees} == {etag}
    assert len({tree.path for tree in trees}) == 1
    assert (trees[0].path / "main.py").read_text() == "1"
    assert store.downloads == 1


async def test_archive_with_the_digest_of_the_event_is_taken_and_another_one_refused(
    store: CountingStore, cache: CodeCache, ref: CodeRef
) -> None:
    archive = code("1")
    await store.put(ref.bucket, ref.key, archive)
    digest = hashlib.sha256(archive).hexdigest()
    # Taken without a digest, it is no proof for an event with one.
    await cache.fetch(ref)

    tree = await cache.fetch(replace(ref, sha256=digest))
    assert (tree.path / "main.py").read_text() == "1"

    for _ in range(2):
        with pytest.raises(ArchiveRejected, match=f"has the SHA-256 {digest}, and custom.sha256 is {'0' * 64}"):
            await cache.fetch(replace(ref, sha256="0" * 64))
    assert store.downloads == 3


async def test_cancelled_caller_keeps_shared_download_running(
    store: CountingStore, cache: CodeCache, ref: CodeRef
) -> None:
    await store.put(ref.bucket, ref.key, code("1", size=500_000))
    first = asyncio.create_task(cache.fetch(ref))
    others = [asyncio.create_task(cache.fetch(ref)) for _ in range(3)]
    await eventually(lambda: store.downloads == 1, every_seconds=0.001)

    first.cancel()

    assert len({tree.path for tree in await asyncio.gather(*others)}) == 1
    assert store.downloads == 1


async def test_a_new_version_is_another_tree_and_the_old_one_stays_as_it_was(
    store: CountingStore, cache: CodeCache, ref: CodeRef
) -> None:
    await store.put(ref.bucket, ref.key, code("old"))
    old = await cache.fetch(ref, holder="the0-bot-runner-1")
    await store.put(ref.bucket, ref.key, code("new"))

    new = await cache.fetch(ref)

    assert (new.path / "main.py").read_text() == "new"
    assert (old.path / "main.py").read_text() == "old"
    assert new.etag == (await store.stat(ref.bucket, ref.key)).etag


async def test_wanted_version_is_served_from_the_host_after_its_object_was_replaced(
    store: CountingStore, cache: CodeCache, ref: CodeRef
) -> None:
    await store.put(ref.bucket, ref.key, code("old"))
    old = await cache.fetch(ref)
    await store.put(ref.bucket, ref.key, b"broken")

    again = await cache.fetch(ref, holder="the0-bot-runner-1", etag=old.etag)

    assert (again.path, again.etag) == (old.path, old.etag)


async def test_wanted_version_that_was_replaced_and_is_not_on_the_host_is_refused(
    store: CountingStore, cache: CodeCache, ref: CodeRef
) -> None:
    await store.put(ref.bucket, ref.key, code("old"))
    with pytest.raises(CodeReplaced, match=ref.key):
        await cache.fetch(ref, etag="another")

    assert store.downloads == 0


async def test_wanted_version_that_the_object_still_has_is_fetched(
    store: CountingStore, cache: CodeCache, ref: CodeRef
) -> None:
    await store.put(ref.bucket, ref.key, code("old"))

    tree = await cache.fetch(ref, etag=(await store.stat(ref.bucket, ref.key)).etag)

    assert (tree.path / "main.py").read_text() == "old"


async def test_without_the_storage_no_other_version_serves_for_the_wanted_one(ref: CodeRef, tmp_path: Path) -> None:
    async with S3Server.start(tmp_path / "s3") as server:
        store = store_of(server)
        await store.ensure_bucket(ref.bucket)
        await store.put(ref.bucket, ref.key, code("1"))
        cache = CodeCache(store, tmp_path / "code", max_bytes=1_000_000)
        await cache.open()
        known = await cache.fetch(ref)
        await server.kill()

        assert await cache.fetch(ref, etag=known.etag) == known
        with pytest.raises(CodeUnavailable):
            await cache.fetch(ref, etag="another")
        await cache.close()
        await store.close()


async def test_a_second_worker_process_of_the_host_downloads_nothing(
    store: CountingStore, cache: CodeCache, ref: CodeRef, s3_server: S3Server, tmp_path: Path
) -> None:
    await store.put(ref.bucket, ref.key, code("1", size=500_000))
    other_store = store_of(s3_server)
    other = CodeCache(other_store, tmp_path / "code", max_bytes=1_000_000)
    await other.open()

    mine, theirs = await asyncio.gather(cache.fetch(ref), other.fetch(ref))

    assert mine == theirs
    assert store.downloads + other_store.downloads == 1
    await other.close()
    await other_store.close()


async def test_a_missing_object_is_missing(cache: CodeCache, ref: CodeRef) -> None:
    with pytest.raises(CodeMissing, match=ref.key):
        await cache.fetch(ref)


async def test_a_refused_archive_is_refused_again_without_a_download(
    store: CountingStore, cache: CodeCache, ref: CodeRef, tmp_path: Path
) -> None:
    await store.put(ref.bucket, ref.key, b"no archive at all")

    for _ in range(3):
        with pytest.raises(ArchiveRejected, match="neither ZIP nor TAR"):
            await cache.fetch(ref)

    assert store.downloads == 1
    assert left_behind(tmp_path) == []


async def test_an_archive_over_the_limit_is_not_even_downloaded(
    store: CountingStore, ref: CodeRef, tmp_path: Path
) -> None:
    cache = CodeCache(store, tmp_path / "code", max_bytes=1_000_000, max_archive_bytes=1000)
    await cache.open()
    await store.put(ref.bucket, ref.key, code("1", size=2000))

    with pytest.raises(ArchiveRejected, match="at most 1000"):
        await cache.fetch(ref)

    assert store.downloads == 0
    await cache.close()


async def test_least_recently_used_goes_first_and_what_is_held_stays(
    store: CountingStore, ref: CodeRef, tmp_path: Path
) -> None:
    cache = CodeCache(store, tmp_path / "code", max_bytes=250_000, keep_seconds=0)
    await cache.open()
    held, used, unused, last = [CodeRef(ref.bucket, name) for name in ("held", "used", "unused", "last")]
    for each in (held, used, unused, last):
        await store.put(each.bucket, each.key, code("1", size=100_000))

    held_tree = await cache.fetch(held, holder="the0-bot-runner-1")
    unused_tree = await cache.fetch(unused)
    used_tree = await cache.fetch(used)
    last_tree = await cache.fetch(last)

    assert [tree.path.exists() for tree in (held_tree, unused_tree, used_tree, last_tree)] == [True, False, False, True]
    assert await cache.size_bytes() < 250_000
    assert left_behind(tmp_path) == []
    await cache.close()


async def test_held_tree_stays_above_limit_until_release(store: CountingStore, ref: CodeRef, tmp_path: Path) -> None:
    cache = CodeCache(store, tmp_path / "code", max_bytes=50_000, keep_seconds=0)
    await cache.open()
    await store.put(ref.bucket, ref.key, code("1", size=100_000))
    tree = await cache.fetch(ref, holder="../odd/name*")

    await cache.evict()
    assert tree.path.exists()

    await cache.release("../odd/name*")
    await cache.evict()
    assert not tree.path.exists()
    await cache.close()


async def test_pins_outlive_the_process_and_end_with_the_container(
    store: CountingStore, ref: CodeRef, tmp_path: Path
) -> None:
    first = CodeCache(store, tmp_path / "code", max_bytes=50_000, keep_seconds=0)
    await first.open()
    await store.put(ref.bucket, ref.key, code("1", size=100_000))
    tree = await first.fetch(ref, holder="the0-bot-runner-1")
    await first.close()
    second = CodeCache(store, tmp_path / "code", max_bytes=50_000, keep_seconds=0)
    await second.open()

    assert await second.drop_stale_pins(["the0-bot-runner-1"], older_than_seconds=0) == 0
    assert await second.drop_stale_pins([], older_than_seconds=60) == 0
    await second.evict()
    assert tree.path.exists()

    assert await second.drop_stale_pins(["the0-bot-runner-2"], older_than_seconds=0) == 1
    await second.evict()
    assert not tree.path.exists()
    await second.close()


async def test_an_evicted_version_is_fetched_again(store: CountingStore, ref: CodeRef, tmp_path: Path) -> None:
    cache = CodeCache(store, tmp_path / "code", max_bytes=0, keep_seconds=0)
    await cache.open()
    await store.put(ref.bucket, ref.key, code("1"))
    tree = await cache.fetch(ref, holder="c1")
    await cache.release("c1")
    await cache.evict()
    assert not tree.path.exists()

    again = await cache.fetch(ref, holder="c2")

    assert (again.path / "main.py").read_text() == "1"
    await cache.close()


async def test_without_the_storage_the_last_version_serves(ref: CodeRef, tmp_path: Path) -> None:
    async with S3Server.start(tmp_path / "s3") as server:
        store = store_of(server)
        await store.ensure_bucket(ref.bucket)
        await store.put(ref.bucket, ref.key, code("1"))
        await store.put(ref.bucket, "never-fetched", code("2"))
        cache = CodeCache(store, tmp_path / "code", max_bytes=1_000_000)
        await cache.open()
        fresh = await cache.fetch(ref)
        await server.kill()

        stale = await cache.fetch(ref)

        assert (stale.path, stale.etag, stale.stale) == (fresh.path, fresh.etag, True)
        with pytest.raises(CodeUnavailable, match="never-fetched"):
            await cache.fetch(CodeRef(ref.bucket, "never-fetched"))
        await cache.close()
        await store.close()


def fetch_and_die(endpoint: str, bucket: str, key: str, directory: Path) -> None:
    """In a separate process: begin a download and be killed in the middle of it."""

    class DyingStore(ObjectStore):
        async def get_to_file(self, bucket: str, key: str, path: Path, *, etag: str, max_bytes: int) -> int:
            path.write_bytes(b"half of it")  # noqa: ASYNC240
            os.kill(os.getpid(), 9)
            raise AssertionError("unreachable")

    async def run() -> None:
        settings = StorageSettings(
            endpoint=endpoint, access_key=SecretStr(S3Server.access_key), secret_key=SecretStr(S3Server.secret_key)
        )
        cache = CodeCache(DyingStore(settings), directory, max_bytes=1_000_000)
        await cache.open()
        await cache.fetch(CodeRef(bucket, key))

    asyncio.run(run())


async def test_remains_of_killed_process_are_removed_at_next_start(
    store: CountingStore, cache: CodeCache, ref: CodeRef, s3_server: S3Server, tmp_path: Path
) -> None:
    await store.put(ref.bucket, ref.key, code("1"))
    victim = multiprocessing.get_context("spawn").Process(
        target=fetch_and_die, args=(s3_server.endpoint, ref.bucket, ref.key, tmp_path / "code")
    )
    victim.start()
    await asyncio.to_thread(victim.join, 120)
    assert victim.exitcode == -9
    assert len(left_behind(tmp_path)) == 2

    await cache.open()

    assert left_behind(tmp_path) == []
    assert ((await asyncio.wait_for(cache.fetch(ref), 60)).path / "main.py").read_text() == "1"


async def test_opening_leaves_a_running_download_of_another_process_alone(
    store: CountingStore, cache: CodeCache, ref: CodeRef, tmp_path: Path
) -> None:
    await store.put(ref.bucket, ref.key, code("1", size=900_000))
    fetching = asyncio.create_task(cache.fetch(ref))
    await eventually(lambda: left_behind(tmp_path), every_seconds=0.001)

    other = CodeCache(store, tmp_path / "code", max_bytes=1_000_000)
    await other.open()
    await other.close()

    assert (await fetching).path.is_dir()
    assert store.downloads == 1


async def test_trees_from_before_the_hosts_last_boot_are_dropped(
    store: CountingStore, cache: CodeCache, ref: CodeRef, tmp_path: Path
) -> None:
    await store.put(ref.bucket, ref.key, code("1"))
    tree = await cache.fetch(ref)
    manifest = tree.path.with_suffix(".json")
    manifest.write_text(manifest.read_text().replace('"boot_id": "', '"boot_id": "earlier-'))

    await cache.open()

    assert not tree.path.exists()
    assert os.listdir(tmp_path / "code/refs") == []


async def test_unpacking_does_not_hold_up_the_loop(store: CountingStore, cache: CodeCache, ref: CodeRef) -> None:
    await store.put(ref.bucket, ref.key, code("1", size=8_000_000))
    fetching = asyncio.create_task(cache.fetch(ref))

    longest = await busiest_seconds(fetching)

    await fetching
    assert longest < 0.3
