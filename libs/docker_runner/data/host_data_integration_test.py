"""Data sets on a host, in a real storage."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from libs.core.config.connection_settings import StorageSettings
from libs.core.room import MIB
from libs.core.storage.data_sets import DataCatalog, DataSet
from libs.core.storage.errors import StorageUnavailable
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.data.host_data import HostData
from libs.docker_runner.errors import DataMissing, DataRejected, DataUnavailable
from tools.bots.data_upload import packed, upload_data
from tools.stack.s3 import S3Server


class Store(ObjectStore):
    """A storage that counts downloads and concurrent reads, and can be down."""

    downloads = 0
    reads = 0
    most_reads = 0
    is_down = False

    async def get(
        self, bucket: str, key: str, *, offset: int = 0, length: int | None = None, etag: str | None = None
    ) -> bytes:
        if self.is_down:
            raise StorageUnavailable("get", "down")
        self.reads += 1
        self.most_reads = max(self.most_reads, self.reads)
        try:
            return await super().get(bucket, key, offset=offset, length=length, etag=etag)
        finally:
            self.reads -= 1

    async def get_to_file(self, bucket: str, key: str, path: Path, *, etag: str, max_bytes: int) -> int:
        if self.is_down:
            raise StorageUnavailable("get", "down")
        self.downloads += 1
        return await super().get_to_file(bucket, key, path, etag=etag, max_bytes=max_bytes)


@pytest_asyncio.fixture(loop_scope="session")
async def store(s3_server: S3Server) -> AsyncIterator[Store]:
    settings = StorageSettings(
        endpoint=s3_server.endpoint,
        access_key=SecretStr(S3Server.access_key),
        secret_key=SecretStr(S3Server.secret_key),
    )
    store = Store(settings)
    yield store
    await store.close()


@pytest.fixture
def catalog(store: Store, bucket_prefix: str) -> DataCatalog:
    return DataCatalog(store, bucket_prefix, "data/")


@pytest_asyncio.fixture(loop_scope="session")
async def host(catalog: DataCatalog, tmp_path: Path) -> AsyncIterator[HostData]:
    host = HostData(catalog, tmp_path / "host", max_bytes=10 * MIB, max_set_bytes=4 * MIB, keep_seconds=0)
    await host.open()
    yield host
    await host.close()


async def put(catalog: DataCatalog, folder: Path, name: str, content: bytes) -> DataSet:
    """Upload a file as a data set."""
    file = folder / "source"
    file.write_bytes(content)
    with packed(file) as data:
        found, _ = await upload_data(catalog, name, data, "ann")
        return found


async def test_data_set_is_fetched_once_and_is_the_uploaded_file(
    catalog: DataCatalog, host: HostData, store: Store, tmp_path: Path
) -> None:
    await put(catalog, tmp_path, "prices", b"1,2,3")

    found = await asyncio.gather(*(host.fetch(["prices"], f"holder {n}") for n in range(4)))
    again = await host.fetch(["prices"])

    assert again["prices"].read_bytes() == b"1,2,3"
    assert {one["prices"] for one in found} == {again["prices"]}
    assert store.downloads == 1


async def test_several_data_sets_are_looked_up_at_once(
    catalog: DataCatalog, host: HostData, store: Store, tmp_path: Path
) -> None:
    names = ["a", "b", "c"]
    for name in names:
        await put(catalog, tmp_path, name, name.encode())

    found = await host.fetch(names, "holder")

    assert {name: path.read_bytes() for name, path in found.items()} == {"a": b"a", "b": b"b", "c": b"c"}
    assert store.most_reads == 3


async def test_folder_keeps_its_files(catalog: DataCatalog, host: HostData, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "2024").mkdir(parents=True)
    (source / "2024" / "btc.csv").write_text("1")
    (source / "2024" / "link.csv").symlink_to("btc.csv")
    with packed(source) as data:
        await upload_data(catalog, "prices", data, "ann")

    path = (await host.fetch(["prices"]))["prices"]

    assert {file.relative_to(path).as_posix() for file in path.rglob("*")} == {
        *("2024", "2024/btc.csv", "2024/link.csv")
    }
    assert (path / "2024" / "link.csv").read_text() == "1"


async def test_new_version_affects_later_fetches_only(catalog: DataCatalog, host: HostData, tmp_path: Path) -> None:
    await put(catalog, tmp_path, "prices", b"old")
    first = (await host.fetch(["prices"], "first"))["prices"]

    await put(catalog, tmp_path, "prices", b"new")
    second = (await host.fetch(["prices"], "second"))["prices"]

    assert (first.read_bytes(), second.read_bytes()) == (b"old", b"new")


async def test_missing_data_set_is_named_with_remedy(catalog: DataCatalog, host: HostData, tmp_path: Path) -> None:
    with pytest.raises(DataMissing) as raised:
        await host.fetch(["prices"])
    assert "missing data set 'prices'" in str(raised.value)
    assert "runtime bot data put prices FILE" in str(raised.value)

    await put(catalog, tmp_path, "prices", b"1")
    await host.fetch(["prices"])
    assert await catalog.remove("prices")
    with pytest.raises(DataMissing):
        await host.fetch(["prices"])


async def test_removed_content_is_missing_until_it_is_uploaded_again(
    catalog: DataCatalog, host: HostData, store: Store, tmp_path: Path
) -> None:
    known = await put(catalog, tmp_path, "prices", b"1")
    await store.remove(catalog.bucket, known.key)

    with pytest.raises(DataMissing, match="its content was removed"):
        await host.fetch(["prices"])

    await put(catalog, tmp_path, "prices", b"1")
    assert (await host.fetch(["prices"]))["prices"].read_bytes() == b"1"


async def test_content_with_another_digest_is_never_used(
    catalog: DataCatalog, host: HostData, store: Store, tmp_path: Path
) -> None:
    known = await put(catalog, tmp_path, "prices", b"1")
    other = await put(catalog, tmp_path, "other", b"2")
    forged = await store.get(catalog.bucket, other.key)
    await store.put(catalog.bucket, known.key, forged)

    with pytest.raises(DataRejected, match="SHA-256"):
        await host.fetch(["prices"])


async def test_cached_version_is_used_while_the_storage_is_down(
    catalog: DataCatalog, host: HostData, store: Store, tmp_path: Path
) -> None:
    await put(catalog, tmp_path, "prices", b"1")
    await host.fetch(["prices"])
    store.is_down = True

    assert (await host.fetch(["prices"], "holder"))["prices"].read_bytes() == b"1"
    with pytest.raises(DataUnavailable, match="'other' is not available now"):
        await host.fetch(["other"])


async def test_unused_data_sets_are_evicted_and_pinned_ones_stay(
    catalog: DataCatalog, host: HostData, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        await put(catalog, tmp_path, name, os.urandom(3 * MIB))
    pinned = (await host.fetch(["a"], "holder"))["a"]
    unused = (await host.fetch(["b"]))["b"]
    await host.fetch(["c"])
    await put(catalog, tmp_path, "d", os.urandom(3 * MIB))

    await host.fetch(["d"])

    assert pinned.exists()
    assert not unused.exists()
    assert await host.size_bytes() <= 10 * MIB


async def test_nothing_is_fetched_beyond_the_limit_until_others_are_released(
    catalog: DataCatalog, host: HostData, store: Store, tmp_path: Path
) -> None:
    for name in ("a", "b", "c", "d"):
        await put(catalog, tmp_path, name, os.urandom(3 * MIB))
    await host.fetch(["a", "b", "c"], "holder")

    with pytest.raises(DataUnavailable, match="DATA_CACHE_MB"):
        await host.fetch(["d"], "other")
    assert store.downloads == 3

    await host.release("holder")
    assert (await host.fetch(["d"], "other"))["d"].exists()


async def test_concurrent_fetches_do_not_exceed_the_limit_together(
    catalog: DataCatalog, host: HostData, tmp_path: Path
) -> None:
    for name in ("a", "b", "c", "d"):
        await put(catalog, tmp_path, name, os.urandom(3 * MIB))
    await host.fetch(["a", "b"], "holder")

    found = await asyncio.gather(host.fetch(["c"], "c"), host.fetch(["d"], "d"), return_exceptions=True)

    assert [isinstance(one, DataUnavailable) for one in found].count(True) == 1
    assert await host.size_bytes() <= 10 * MIB


async def test_data_set_beyond_the_limit_on_one_is_rejected_before_its_download(
    catalog: DataCatalog, host: HostData, store: Store, tmp_path: Path
) -> None:
    await put(catalog, tmp_path, "large", bytes(5 * MIB))

    with pytest.raises(DataRejected, match=r"'large' has 5\.0 MiB; workers accept 4"):
        await host.fetch(["large"])
    assert store.downloads == 0


async def test_data_set_that_declares_too_little_is_rejected_while_it_is_unpacked(
    catalog: DataCatalog, host: HostData, tmp_path: Path
) -> None:
    known = await put(catalog, tmp_path, "bomb", bytes(50 * MIB))
    await catalog.publish(replace(known, total_bytes=1))

    with pytest.raises(DataRejected, match="'bomb'"):
        await host.fetch(["bomb"])
    assert await host.size_bytes() == 0


@pytest.mark.parametrize(
    "changes", [{"key": "../../bots/x.zip"}, {"sha256": "x"}, {"etag": ""}, {"kind": "device"}, {"files": -1}]
)
async def test_unsound_description_counts_as_missing(
    catalog: DataCatalog, host: HostData, tmp_path: Path, changes: dict[str, object]
) -> None:
    known = await put(catalog, tmp_path, "prices", b"1")
    await catalog.publish(replace(known, **changes))  # type: ignore[arg-type]

    with pytest.raises(DataMissing):
        await host.fetch(["prices"])
