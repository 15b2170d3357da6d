"""A connection that is being opened when its task is cancelled is closed: else a warning would fail the test."""

import asyncio
import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from libs.core.store.client import Mongo


@contextmanager
def warnings_of_what_is_left() -> Iterator[list[str]]:
    """Filled at the end, also with what only the garbage collector finds."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
        gc.collect()
    found += [str(warning.message) for warning in caught]


async def test_a_cancelled_opening_leaves_no_socket(mongo_uri: str) -> None:
    with warnings_of_what_is_left() as left:
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

    assert left == []


async def test_a_pool_closed_while_its_monitor_connects_leaves_no_socket(mongo_uri: str) -> None:
    with warnings_of_what_is_left() as left:
        for turns in range(40):
            mongo = Mongo(mongo_uri)
            ping = asyncio.create_task(mongo.ping())
            for _ in range(turns):
                await asyncio.sleep(0)
            await mongo.close()
            ping.cancel()
            await asyncio.gather(ping, return_exceptions=True)

    assert left == []
