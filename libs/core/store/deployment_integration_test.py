import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from libs.core.store.client import Mongo
from libs.core.store.deployment import deployment_id


@pytest_asyncio.fixture(loop_scope="session")
async def mongo(mongo_uri: str) -> AsyncIterator[Mongo]:
    mongo = Mongo(mongo_uri, timeout_seconds=20)
    yield mongo
    await mongo.close()


async def test_concurrent_requests_get_the_same_id(mongo: Mongo, database_name: str) -> None:
    database = mongo.database(database_name)

    answers = await asyncio.gather(*(deployment_id(database) for _ in range(20)))

    assert len(set(answers)) == 1
    assert len(answers[0]) == 20
    assert await deployment_id(database) == answers[0]


async def test_every_database_has_its_own(mongo: Mongo, database_name: str) -> None:
    first = await deployment_id(mongo.database(database_name))
    other = mongo.database(f"{database_name}_2")
    second = await deployment_id(other)
    await other.client.drop_database(other)

    assert first != second
