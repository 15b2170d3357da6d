"""Fixtures for all tests below this folder."""

from collections.abc import AsyncIterator

import pytest_asyncio

from libs.core.store.client import Database, Mongo


@pytest_asyncio.fixture(loop_scope="session")
async def database(mongo_uri: str, database_name: str) -> AsyncIterator[Database]:
    """An empty database, which is dropped after the test."""
    mongo = Mongo(mongo_uri, timeout_seconds=20)
    yield mongo.database(database_name)
    await mongo.close()
