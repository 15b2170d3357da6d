"""Uploads of data sets that meet, over a real storage."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from libs.core.config.connection_settings import StorageSettings
from libs.core.storage.data_sets import DataCatalog
from libs.core.storage.object_store import ObjectStore
from tools.bots.data_upload import DataRefused, packed, upload_data
from tools.stack.s3 import S3Server


@pytest_asyncio.fixture(loop_scope="session")
async def store(s3_server: S3Server) -> "AsyncIterator[Overtaken]":
    settings = StorageSettings(
        endpoint=s3_server.endpoint,
        access_key=SecretStr(S3Server.access_key),
        secret_key=SecretStr(S3Server.secret_key),
    )
    store = Overtaken(settings)
    yield store
    await store.close()


class Overtaken(ObjectStore):
    """A storage in which another owner takes the name while content is uploaded."""

    other: Path | None = None

    async def put_file(self, bucket: str, key: str, path: Path, content_type: str = "application/octet-stream") -> str:
        """Upload after the other owner, once."""
        other, self.other = self.other, None
        if other is not None:
            with packed(other) as data:
                await upload_data(DataCatalog(self, bucket, "data/"), "prices", data, "bob@desk", "bob")
        return await super().put_file(bucket, key, path, content_type)


async def test_name_that_another_owner_takes_during_an_upload_stays_with_that_owner(
    store: Overtaken, bucket_prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "own").write_text("1")
    store.other = tmp_path / "other"
    store.other.write_text("2")
    catalog = DataCatalog(store, f"{bucket_prefix}data", "data/")

    with packed(tmp_path / "own") as data, pytest.raises(DataRefused, match=r"'prices' is of owner 'bob', and not of"):
        await upload_data(catalog, "prices", data, "ann@desk", "ann")

    found = await catalog.get("prices")
    assert found is not None
    assert (found.owner, found.uploaded_by) == ("bob", "bob@desk")
