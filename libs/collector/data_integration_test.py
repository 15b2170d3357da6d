"""Which content of data sets stays, in a real storage."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from libs.collector.data import UnreferencedData
from libs.collector.sweep import Sweep
from libs.core.config.connection_settings import StorageSettings
from libs.core.storage.data_sets import DataCatalog, DataSet
from libs.core.storage.errors import BucketMissing
from libs.core.storage.object_store import ObjectStore
from tools.bots.data_upload import packed, upload_data
from tools.stack.s3 import S3Server


@pytest_asyncio.fixture(loop_scope="session")
async def catalog(s3_server: S3Server, bucket_prefix: str) -> AsyncIterator[DataCatalog]:
    settings = StorageSettings(
        endpoint=s3_server.endpoint,
        access_key=SecretStr(S3Server.access_key),
        secret_key=SecretStr(S3Server.secret_key),
    )
    store = ObjectStore(settings)
    yield DataCatalog(store, bucket_prefix, "data/")
    await store.close()


async def put(catalog: DataCatalog, folder: Path, name: str, content: str) -> DataSet:
    """Upload a file as a data set."""
    (folder / "file").write_text(content)
    with packed(folder / "file") as data:
        found, _ = await upload_data(catalog, name, data, "ann")
        return found


async def keys(catalog: DataCatalog) -> set[str]:
    return {info.key async for info in catalog.store.list(catalog.bucket, "")}


async def test_content_without_a_name_is_removed_once_it_is_old(catalog: DataCatalog, tmp_path: Path) -> None:
    old = await put(catalog, tmp_path, "prices", "old")
    new = await put(catalog, tmp_path, "prices", "new")
    removed = await put(catalog, tmp_path, "removed", "x")
    await catalog.remove("removed")
    await catalog.store.put(catalog.bucket, "data/content/other", b"not of the runtime")
    # The storage's clock is read in whole seconds, and the times of objects have more digits.
    later = await catalog.store.now(catalog.bucket) + timedelta(seconds=2)
    while await catalog.store.now(catalog.bucket) < later:  # noqa: ASYNC110 - another process's clock
        await asyncio.sleep(0.1)
    before = await keys(catalog)

    await UnreferencedData(catalog, 1).collect(Sweep("data"))
    await UnreferencedData(catalog, 0, least_seconds=0).collect(Sweep("data"))
    assert await keys(catalog) == before

    sweep = Sweep("data")
    await UnreferencedData(catalog, 0.001, least_seconds=0).collect(sweep)

    assert before - await keys(catalog) == {old.key, removed.key}
    assert (await catalog.get("prices")) == new
    assert sweep.count == 2


async def test_content_of_a_description_that_only_newer_versions_read_stays(
    catalog: DataCatalog, tmp_path: Path
) -> None:
    known = await put(catalog, tmp_path, "prices", "1")
    newer = known.to_json().replace(b'"file"', b'"stream"')
    await catalog.store.put(catalog.bucket, "data/names/prices.json", newer)
    assert await catalog.get("prices") is None

    assert known.key in await catalog.referenced()


async def test_collection_without_a_bucket_does_nothing(catalog: DataCatalog) -> None:
    sweep = Sweep("data")
    await UnreferencedData(catalog, 1, least_seconds=0).collect(sweep)

    assert sweep.count == 0
    with pytest.raises(BucketMissing):
        await keys(catalog)


@pytest.mark.parametrize("key", ["data/content/x", "other", f"data/content/{'a' * 64}-1.tar.gz.bak"])
def test_other_keys_are_no_content(key: str) -> None:
    assert not DataCatalog(None, "b", "data/").is_content(key)  # type: ignore[arg-type]
