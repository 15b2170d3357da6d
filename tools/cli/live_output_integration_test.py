"""Output where no worker can be reached: out of a real S3 server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest
import pytest_asyncio

from libs.core.process.service import BOT_RUNNER, ServiceDefinition
from libs.core.storage.object_store import ObjectStore
from tests.support.fakes.log_host import store_of
from tools.cli.connections import Connections, Target, connected
from tools.cli.failures import Failure
from tools.cli.live_output import EntityOutput
from tools.stack.s3 import S3Server


@pytest.fixture
def service(database_name: str) -> ServiceDefinition:
    """The bot-runner, with its own database."""

    return replace(BOT_RUNNER, database=database_name)


@pytest_asyncio.fixture(loop_scope="session")
async def storage(s3_server: S3Server, bucket_prefix: str) -> AsyncIterator[ObjectStore]:
    store = store_of(s3_server)
    await store.ensure_bucket(bucket_prefix)
    yield store
    await store.close()


@pytest_asyncio.fixture(loop_scope="session")
async def servers(
    mongo_uri: str, s3_server: S3Server, bucket_prefix: str, storage: ObjectStore
) -> AsyncIterator[Connections]:
    where = {
        "MONGO_URI": mongo_uri,
        "MINIO_ENDPOINT": s3_server.endpoint,
        "MINIO_ACCESS_KEY_ID": S3Server.access_key,
        "MINIO_SECRET_ACCESS_KEY": S3Server.secret_key,
        "MINIO_LOGS_BUCKET": bucket_prefix,
    }
    async with connected(Target(where, "the test")) as made:
        yield made


async def test_without_worker_storage_is_followed_and_note_printed_once(
    servers: Connections, service: ServiceDefinition, storage: ObjectStore, bucket_prefix: str
) -> None:
    database = await servers.database(service)
    await database["bots"].insert_one({"id": "b1", "segment_id": 1, "config": {}, "custom": {}})
    await storage.put(bucket_prefix, "logs/b1/20260131.log", b"one\ntwo\nthree\n")
    notes: list[str] = []
    reading = EntityOutput(servers, service, "b1", notes.append).lines(2, follow=True)

    async with aclosing(reading), asyncio.timeout(30):
        before = [await anext(reading), await anext(reading)]
        await storage.put(bucket_prefix, "logs/b1/20260131.log", b"one\ntwo\nthree\nfour\n")
        after = await anext(reading)

    assert (before, after) == (["two", "three"], "four")
    assert len(notes) == 1
    assert "storage" in notes[0]


async def test_output_of_removed_bot_is_shown_and_ends(
    servers: Connections, service: ServiceDefinition, storage: ObjectStore, bucket_prefix: str
) -> None:
    await storage.put(bucket_prefix, "logs/gone/20260131.log", b"last words\n")

    lines = EntityOutput(servers, service, "gone", print).lines(10, follow=True)

    assert [line async for line in lines] == ["last words"]


async def test_unknown_bot_is_reported(servers: Connections, service: ServiceDefinition) -> None:
    with pytest.raises(Failure, match="there is no bot 'nobody'"):
        await anext(EntityOutput(servers, service, "nobody", print).lines(10, follow=False))
