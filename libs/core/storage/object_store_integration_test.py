"""The object store against a real S3 server, one that is away, and one that refuses."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from libs.core.config.connection_settings import StorageSettings
from libs.core.http.health import Readiness
from libs.core.storage.errors import BucketMissing, ObjectChanged, ObjectMissing, StorageRejected, StorageUnavailable
from libs.core.storage.object_store import MIN_COMPOSED_PART_BYTES, ObjectStore, Piece
from tests.support.eventually import eventually
from tools.stack.ports import free_port
from tools.stack.s3 import S3Server


def storage_settings(
    endpoint: str, secret_key: str = S3Server.secret_key, logs_bucket: str = "logs"
) -> StorageSettings:
    return StorageSettings(
        endpoint=endpoint,
        access_key=SecretStr(S3Server.access_key),
        secret_key=SecretStr(secret_key),
        logs_bucket=logs_bucket,
    )


@pytest_asyncio.fixture(loop_scope="session")
async def store(s3_server: S3Server) -> AsyncIterator[ObjectStore]:
    store = ObjectStore(storage_settings(s3_server.endpoint))
    yield store
    await store.close()


@pytest_asyncio.fixture(loop_scope="session")
async def bucket(store: ObjectStore, bucket_prefix: str) -> str:
    await store.ensure_bucket(bucket_prefix)
    return bucket_prefix


async def test_stored_object_is_read_whole_and_in_ranges(store: ObjectStore, bucket: str) -> None:
    etag = await store.put(bucket, "a/b c/ü.txt", b"0123456789")

    info = await store.stat(bucket, "a/b c/ü.txt")
    assert (info.size, info.etag) == (10, etag)
    assert await store.get(bucket, "a/b c/ü.txt") == b"0123456789"
    assert await store.get(bucket, "a/b c/ü.txt", offset=7) == b"789"
    assert await store.get(bucket, "a/b c/ü.txt", offset=2, length=3) == b"234"
    assert await store.get(bucket, "a/b c/ü.txt", offset=10) == b""
    assert await store.get(bucket, "a/b c/ü.txt", offset=8, length=0) == b""


async def test_an_empty_object_is_an_object(store: ObjectStore, bucket: str) -> None:
    await store.put(bucket, "empty", b"")

    assert await store.get(bucket, "empty") == b""


async def test_a_file_goes_up_and_down_as_it_is(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    content = os.urandom(12 * 1024 * 1024)
    (tmp_path / "up").write_bytes(content)

    etag = await store.put_file(bucket, "large", tmp_path / "up")
    size = await store.get_to_file(bucket, "large", tmp_path / "down", etag=etag, max_bytes=len(content))

    assert size == len(content)
    assert (tmp_path / "down").read_bytes() == content


async def test_a_file_over_the_limit_is_not_fetched(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    etag = await store.put(bucket, "large", bytes(1001))

    with pytest.raises(StorageRejected, match="over 1000 bytes"):
        await store.get_to_file(bucket, "large", tmp_path / "down", etag=etag, max_bytes=1000)


async def test_another_version_than_the_one_asked_for_is_an_error(
    store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    etag = await store.put(bucket, "code", b"first")
    await store.put(bucket, "code", b"second")

    with pytest.raises(ObjectChanged):
        await store.get(bucket, "code", etag=etag)
    with pytest.raises(ObjectChanged):
        await store.get_to_file(bucket, "code", tmp_path / "down", etag=etag, max_bytes=100)


async def test_composing_joins_objects_on_the_server_and_sends_nothing(store: ObjectStore, bucket: str) -> None:
    large = os.urandom(MIN_COMPOSED_PART_BYTES)
    etag = await store.put(bucket, "whole", large)
    await store.put(bucket, "more", b"tail")
    sent = store.bytes_sent

    await store.compose(bucket, "whole", [Piece("whole", etag=etag), Piece("more")])

    assert await store.get(bucket, "whole") == large + b"tail"
    assert store.bytes_sent == sent


async def test_composing_can_begin_anywhere_in_an_object(store: ObjectStore, bucket: str) -> None:
    await store.put(bucket, "padded", bytes(MIN_COMPOSED_PART_BYTES) + b"content")

    await store.compose(bucket, "content", [Piece("padded", offset=MIN_COMPOSED_PART_BYTES)])

    assert await store.get(bucket, "content") == b"content"


async def test_composing_with_a_piece_that_changed_is_an_error(store: ObjectStore, bucket: str) -> None:
    etag = await store.put(bucket, "whole", bytes(MIN_COMPOSED_PART_BYTES))
    await store.put(bucket, "whole", os.urandom(MIN_COMPOSED_PART_BYTES))
    await store.put(bucket, "more", b"tail")

    with pytest.raises(ObjectChanged):
        await store.compose(bucket, "whole", [Piece("whole", etag=etag), Piece("more")])


async def test_listing_is_by_prefix_and_in_order(store: ObjectStore, bucket: str) -> None:
    for key in ["logs/b/2", "logs/a/1", "logs/b/1", "other"]:
        await store.put(bucket, key, key.encode())

    assert [info.key async for info in store.list(bucket, "logs/b/")] == ["logs/b/1", "logs/b/2"]
    assert [info.size async for info in store.list(bucket, "logs/")] == [8, 8, 8]


async def test_removing_may_be_repeated(store: ObjectStore, bucket: str) -> None:
    await store.put(bucket, "gone", b"1")

    await store.remove(bucket, "gone")
    await store.remove(bucket, "gone")

    with pytest.raises(ObjectMissing, match="'gone'"):
        await store.stat(bucket, "gone")


async def test_missing_bucket_differs_from_missing_object(store: ObjectStore, bucket: str) -> None:
    with pytest.raises(BucketMissing):
        await store.get(f"{bucket}-none", "key")
    with pytest.raises(ObjectMissing) as caught:
        await store.get(bucket, "key")
    assert not isinstance(caught.value, BucketMissing)


async def test_ten_may_make_one_bucket_at_once(store: ObjectStore, bucket_prefix: str) -> None:
    await asyncio.gather(*[store.ensure_bucket(bucket_prefix) for _ in range(10)])

    await store.put(bucket_prefix, "key", b"1")
    assert await store.get(bucket_prefix, "key") == b"1"


@pytest.mark.parametrize("key", ["../x", "a/../b", ""])
async def test_a_key_that_no_server_takes_is_refused(store: ObjectStore, bucket: str, key: str) -> None:
    with pytest.raises(StorageRejected):
        await store.get(bucket, key)


async def test_wrong_credentials_name_their_settings(s3_server: S3Server, bucket: str) -> None:
    stranger = ObjectStore(storage_settings(s3_server.endpoint, secret_key="not-the-secret"))

    with pytest.raises(StorageRejected, match="check MINIO_ACCESS_KEY_ID and MINIO_SECRET_ACCESS_KEY") as caught:
        await stranger.get(bucket, "key")

    assert "not-the-secret" not in str(caught.value)
    await stranger.close()


async def test_an_impossible_bucket_name_names_its_setting(s3_server: S3Server) -> None:
    store = ObjectStore(storage_settings(s3_server.endpoint, logs_bucket="no..bucket"))

    with pytest.raises(StorageRejected, match="check MINIO_LOGS_BUCKET"):
        await store.ensure_bucket("no..bucket")

    await store.close()


async def test_a_storage_that_is_away_is_unavailable_within_its_timeout() -> None:
    store = ObjectStore(storage_settings(f"127.0.0.1:{free_port()}"))

    with pytest.raises(StorageUnavailable, match="refused"):
        await asyncio.wait_for(store.stat("bucket", "key"), 60)

    await store.close()


async def test_a_frozen_storage_is_unavailable_within_its_timeout(tmp_path: Path) -> None:
    async with S3Server.start(tmp_path) as server:
        store = ObjectStore(storage_settings(server.endpoint), read_timeout_seconds=0.2)
        server.pause()

        with pytest.raises(StorageUnavailable, match="timed out"):
            await asyncio.wait_for(store.stat("bucket", "key"), 15)

        server.resume()
        await store.close()


async def test_wait_reports_reason_and_ends_when_storage_answers(tmp_path: Path) -> None:
    readiness = Readiness()
    server = S3Server(tmp_path)
    store = ObjectStore(storage_settings(server.endpoint))
    waiting = asyncio.create_task(store.wait_until_up(readiness, ["bots-bucket", "logs-bucket", "logs-bucket"]))
    await eventually(lambda: "refused" in readiness.states["storage"].detail)
    assert readiness.snapshot()["status"] == "not ready"

    await server.launch()
    await asyncio.wait_for(waiting, 60)

    assert readiness.snapshot()["status"] == "ready"
    await store.put("logs-bucket", "key", b"1")
    await store.close()
    await server.stop()
