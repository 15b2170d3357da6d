"""A connection that is being opened when its task is cancelled is closed: else a warning would fail the test."""

import asyncio
import gc
from collections.abc import Iterator

import pytest

from libs.core.store.client import Mongo


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """What the garbage collector finds is reported against this test and no later one."""
    yield
    gc.collect()


async def test_a_cancelled_opening_leaves_no_socket(mongo_uri: str) -> None:
    for turns in range(40):
        mongo = Mongo(mongo_uri)
        await mongo.ping()
        pings = [asyncio.create_task(mongo.ping()) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for ping in pings:
            ping.cancel()
        await asyncio.gather(*pings, return_exceptions=True)
        await mongo.close()


async def test_a_pool_closed_while_its_monitor_connects_leaves_no_socket(mongo_uri: str) -> None:
    for turns in range(40):
        mongo = Mongo(mongo_uri)
        ping = asyncio.create_task(mongo.ping())
        for _ in range(turns):
            await asyncio.sleep(0)
        await mongo.close()
        ping.cancel()
        await asyncio.gather(ping, return_exceptions=True)
