"""Fixtures: one real server of each kind for the whole session, and unique names for each test."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from pymongo import MongoClient

from tools.stack.mongod import MongoServer
from tools.stack.nats import NatsServer
from tools.stack.s3 import S3Server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mongod(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MongoServer]:
    """A MongoDB with transactions, shared by all tests; `.uri`. Stop or kill only one of your own."""
    async with MongoServer.start(tmp_path_factory.mktemp("mongod")) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nats_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """A NATS server with JetStream, shared by all tests; `.url`."""
    async with NatsServer.start(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def s3_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    """An S3 server, shared by all tests; `.endpoint`, `.access_key`, `.secret_key`."""
    async with S3Server.start(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def mongo_uri(mongod: MongoServer) -> str:
    """The connection string of the shared MongoDB."""
    return mongod.uri


@pytest_asyncio.fixture(loop_scope="session")
async def database_name(mongod: MongoServer, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A unique database name; the database is dropped after the test."""
    test = re.sub(r"\W+", "_", request.node.name)[:30]
    name = f"{test}_{uuid.uuid4().hex[:10]}"
    yield name
    # The test may have stopped or frozen the server's process: then there is nothing to clean up.
    if mongod.running:
        await asyncio.to_thread(_drop, mongod.uri, name)


def _drop(uri: str, database: str) -> None:
    client: MongoClient[dict[str, Any]] = MongoClient(uri, serverSelectionTimeoutMS=30_000)
    with client:
        client.drop_database(database)


@pytest.fixture
def bucket_prefix() -> str:
    """A unique prefix for bucket names or object keys (3 to 20 characters, a-z 0-9 -)."""
    return f"t-{uuid.uuid4().hex[:12]}"
