"""Partitions are opened sparingly: by many processes at once, at the worst moments, and after a crash at any write."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from libs.core.store.client import Database, Mongo
from libs.core.store.cordons import CordonStore
from libs.core.store.entities import EntityStore
from libs.core.store.history import EventKind
from libs.core.store.partitions import PartitionStore
from tests.support.faults.crashing_database import Crashed, CrashingDatabase
from tests.support.faults.interruptions import InterruptedDatabase
from tests.support.rigs.published_events import event

CAP = 10
CLIENTS = 4
ROUNDS = 10
MOST_REQUESTS = 25
MOST_WRITES = 12


@pytest_asyncio.fixture(loop_scope="session")
async def clients(mongo_uri: str) -> AsyncIterator[list[Mongo]]:
    clients = [Mongo(mongo_uri, timeout_seconds=20) for _ in range(CLIENTS)]
    yield clients
    for client in clients:
        await client.close()


@pytest_asyncio.fixture(loop_scope="session")
async def database(clients: list[Mongo], database_name: str) -> Database:
    database = clients[0].database(database_name)
    await store_of(database).ensure_indexes()
    return database


def store_of(database: Any, cap: int = CAP) -> EntityStore:
    return EntityStore(database, "bots", PartitionStore(database, "bots", cap))


async def emptied(database: Database) -> None:
    for name in ("bots", "partitions", "counters", "tombstones", "cordons"):
        await database[name].delete_many({})


async def counts(database: Database) -> dict[int, int]:
    return {p["_id"]: p["bot_count"] async for p in database["partitions"].find()}


async def seed(database: Database, *partitions: dict[str, Any]) -> None:
    await database["partitions"].insert_many(partitions)


def lease(seconds: float) -> dict[str, Any]:
    return {"worker_id": "w", "epoch": 1, "expires_at": datetime.now(UTC) + timedelta(seconds=seconds)}


@pytest.mark.parametrize("at_once", [1, 7, 50], ids=["one by one", "in small batches", "in large batches"])
@pytest.mark.parametrize("number", [45, 200])
async def test_concurrent_first_events_open_no_more_partitions_than_they_need(
    clients: list[Mongo], database: Database, database_name: str, number: int, at_once: int
) -> None:
    events = [event(EventKind.CREATED, n + 1, f"b{n}") for n in range(number)]
    batches = [events[first : first + at_once] for first in range(0, number, at_once)]
    opened = []
    for _ in range(ROUNDS):
        await emptied(database)
        stores = [store_of(client.database(database_name)) for client in clients]

        await asyncio.gather(*(stores[n % CLIENTS].apply(batch) for n, batch in enumerate(batches)))

        opened.append(len(await counts(database)))
    assert opened == [math.ceil(number / CAP)] * ROUNDS


async def test_three_events_at_the_same_moment_open_one_partition(
    clients: list[Mongo], database: Database, database_name: str
) -> None:
    opened = []
    for _ in range(ROUNDS):
        await emptied(database)
        stores = [store_of(client.database(database_name)) for client in clients[:3]]

        await asyncio.gather(*(store.create(f"b{n}", {}, {}) for n, store in enumerate(stores)))

        opened.append(await counts(database))
    assert opened == [{1: 3}] * ROUNDS


@pytest.mark.parametrize("others", [1, 2, 3, 7])
@pytest.mark.parametrize("mine", [1, 2, 3, 7])
async def test_wherever_another_process_claims_within_a_claim_the_fewest_partitions_are_opened(
    database: Database, mine: int, others: int
) -> None:
    cap = 3
    for full in (0, 1, 2):
        for at in range(1, MOST_REQUESTS):
            await emptied(database)
            if full:
                await seed(database, {"_id": 1, "bot_count": cap}, {"_id": 2, "bot_count": full})
            occupied = cap + full if full else 0
            claim_of_another = partial(store_of(database, cap).partitions.claim, others)
            interrupted: Any = InterruptedDatabase(database, at, claim_of_another)

            slots = await store_of(interrupted, cap).partitions.claim(mine)

            if not interrupted.interrupted:
                break
            found = await counts(database)
            assert len(slots) == mine
            assert sum(found.values()) == occupied + mine + others
            assert len(found) == math.ceil((occupied + mine + others) / cap), f"interrupted at request {at}"
        assert at > 2


@pytest.mark.parametrize("after_it", [False, True], ids=["before the write", "after the write"])
async def test_a_process_that_dies_at_any_write_of_a_claim_holds_no_other_up(
    database: Database, after_it: bool
) -> None:
    died = 0
    for at in range(1, MOST_WRITES):
        await emptied(database)
        await seed(database, {"_id": 1, "bot_count": CAP}, {"_id": 2, "bot_count": CAP - 1})
        crashing = CrashingDatabase(database, at, after_it)
        crashed = True
        with suppress(Crashed):
            await store_of(crashing).partitions.claim(CAP + 5)
            crashed = False
        if not crashed:
            break
        died += 1
        leaked = sum((await counts(database)).values()) - (2 * CAP - 1)

        slots = await asyncio.wait_for(store_of(database).partitions.claim(CAP + 5), 30)

        found = await counts(database)
        assert len(slots) == CAP + 5
        assert sorted(found) == list(range(1, len(found) + 1))
        assert len(found) == math.ceil((2 * CAP - 1 + leaked + CAP + 5) / CAP)
    assert died >= 3


async def test_slots_are_found_in_all_of_many_partitions_that_are_nearly_full(database: Database) -> None:
    full = [{"_id": n, "bot_count": CAP} for n in range(1, 200)]
    nearly = [{"_id": n, "bot_count": CAP - 1} for n in range(200, 240)]
    await seed(database, *full, *nearly)

    slots = await asyncio.gather(*(store_of(database).partitions.claim(1) for _ in range(30)))
    slots.append(await store_of(database).partitions.claim(10))

    assert sorted(slot.segment_id for claimed in slots for slot in claimed) == list(range(200, 240))


async def test_partitions_with_a_live_owner_and_entities_come_first_then_those_with_a_live_owner(
    database: Database,
) -> None:
    await seed(
        database,
        {"_id": 1, "bot_count": CAP - 1},
        {"_id": 2, "bot_count": CAP - 1, "lease": lease(-1)},
        {"_id": 3, "bot_count": 0, "lease": lease(300)},
        {"_id": 4, "bot_count": CAP - 1, "lease": lease(300)},
        {"_id": 5, "bot_count": CAP - 2, "lease": lease(300)},
        {"_id": 6, "bot_count": 0, "lease": None},
    )
    partitions = store_of(database).partitions

    first = [(await partitions.claim(1))[0].segment_id for _ in range(3)]
    second = [(await partitions.claim(1))[0].segment_id for _ in range(CAP)]
    third = [slot.segment_id for slot in await partitions.claim(CAP + 2)]

    assert sorted(first) == [4, 5, 5]
    assert second == [3] * CAP
    assert sorted(third) == [1, 2] + [6] * CAP


async def test_a_new_partition_is_numbered_behind_segments_whose_partition_is_missing(database: Database) -> None:
    await database["bots"].insert_one({"id": "by hand", "segment_id": 7})

    [slot] = await store_of(database).partitions.claim(1)

    assert slot.segment_id == 8
    counter = await database["counters"].find_one({"_id": "partition_id"})
    assert counter is not None
    assert counter["seq"] == 8


async def test_new_entity_never_joins_the_segment_of_a_cordoned_worker(database: Database) -> None:
    await emptied(database)
    soon = datetime.now(UTC) + timedelta(minutes=10)
    await seed(database, {"_id": 1, "bot_count": 1, "lease": {"worker_id": "a", "expires_at": soon}})
    cordons = CordonStore(database)
    partitions = PartitionStore(database, "bots", CAP)
    await cordons.cordon("a")

    [opened] = await partitions.claim(1)
    [joined] = await partitions.claim(1)
    await cordons.uncordon("a")
    [preferred] = await partitions.claim(1)

    assert (opened.segment_id, joined.segment_id) == (2, 2)
    assert preferred.segment_id == 1


async def test_segment_that_a_cordoned_worker_gave_back_has_room(database: Database) -> None:
    await emptied(database)
    ended = datetime.now(UTC) - timedelta(minutes=10)
    await seed(database, {"_id": 1, "bot_count": 1, "lease": {"worker_id": "a", "expires_at": ended}})
    await CordonStore(database).cordon("a")

    [slot] = await PartitionStore(database, "bots", CAP).claim(1)

    assert slot.segment_id == 1
