"""Slots under several processes at once, crashes between the two writes, and repairs."""

import asyncio
import multiprocessing
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest
import pytest_asyncio

from libs.core.store.client import Database, Mongo
from libs.core.store.entities import EntityStore
from libs.core.store.partitions import PartitionStore, Repaired, SlotExpired
from tests.support.eventually import eventually
from tests.support.faults.interruptions import InterruptedDatabase

CAP = 3
SPAWN = multiprocessing.get_context("spawn")


@pytest_asyncio.fixture(loop_scope="session")
async def database(mongo_uri: str, database_name: str) -> AsyncIterator[Database]:
    mongo = Mongo(mongo_uri, timeout_seconds=20)
    await store_of(mongo.database(database_name)).ensure_indexes()
    yield mongo.database(database_name)
    await mongo.close()


def store_of(database: Database, claim_life_seconds: float = 30.0) -> EntityStore:
    partitions = PartitionStore(database, "bots", CAP, claim_life_seconds=claim_life_seconds)
    return EntityStore(database, "bots", partitions)


async def counts(database: Database) -> dict[int, int]:
    return {p["_id"]: p["bot_count"] async for p in database["partitions"].find()}


async def real_counts(database: Database) -> dict[int, int]:
    real = dict.fromkeys(await counts(database), 0)
    async for bot in database["bots"].find():
        real[bot["segment_id"]] = real.get(bot["segment_id"], 0) + 1
    return real


def in_process(work: Callable[..., Any], *arguments: object) -> Any:
    process = SPAWN.Process(target=work, args=arguments)
    process.start()
    return process


def create_bots(uri: str, database_name: str, prefix: str, number: int) -> None:
    """What a process does that is given many new entities; it also removes a third of them again."""

    async def create(store: EntityStore, start: int) -> None:
        for n in range(start, number, 5):
            await store.create(f"{prefix}-{n}", {}, {})
            if n % 3 == 0:
                await store.delete(f"{prefix}-{n}")

    async def create_all() -> None:
        mongo = Mongo(uri, timeout_seconds=20)
        store = store_of(mongo.database(database_name))
        await asyncio.gather(*(create(store, start) for start in range(5)))
        await mongo.close()

    asyncio.run(create_all())


def claim_and_hang(uri: str, database_name: str, sender: Connection) -> None:
    """Claim a slot, and be killed before the entity is inserted."""

    async def claim() -> None:
        mongo = Mongo(uri, timeout_seconds=20)
        await store_of(mongo.database(database_name)).partitions.claim(1)
        sender.send("claimed")
        await asyncio.Event().wait()

    asyncio.run(claim())


async def test_several_processes_at_once_never_exceed_the_cap_and_count_right(
    mongo_uri: str, database_name: str, database: Database
) -> None:
    processes = [in_process(create_bots, mongo_uri, database_name, f"p{n}", 45) for n in range(3)]
    highest = 0
    while any(process.is_alive() for process in processes):
        real = await real_counts(database)
        highest = max([highest, *(await counts(database)).values(), *real.values()])
        await asyncio.sleep(0.02)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert highest == CAP
    assert await counts(database) == await real_counts(database)
    assert sum((await counts(database)).values()) == 90


async def test_a_process_killed_between_claim_and_insert_leaks_its_slot_only_until_the_repair(
    mongo_uri: str, database_name: str, database: Database
) -> None:
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = in_process(claim_and_hang, mongo_uri, database_name, sender)
    await asyncio.to_thread(receiver.recv)
    process.kill()
    await asyncio.to_thread(process.join)
    assert await counts(database) == {1: 1}
    assert await store_of(database).partitions.repair() == []  # its entity might still be on its way
    patient = store_of(database, claim_life_seconds=0.2).partitions
    assert await eventually(patient.repair) == [Repaired(1, counted=1, real=0)]
    assert await counts(database) == {1: 0}


async def test_a_release_after_a_repair_that_discounted_the_slot_changes_nothing(database: Database) -> None:
    store = store_of(database)
    await store.create("a", {}, {})
    slots = await store.partitions.claim(2)
    await eventually(store_of(database, claim_life_seconds=0.01).partitions.repair)
    await store.partitions.release(slots)
    assert await store.partitions.occupied() == await real_counts(database) == {1: 1}


async def test_repairs_while_entities_come_and_go_leave_no_live_entity_uncounted(database: Database) -> None:
    store = store_of(database)
    done = asyncio.Event()

    async def repair() -> None:
        while not done.is_set():
            await store.partitions.repair()

    async def churn(prefix: str) -> None:
        for n in range(25):
            await store.create(f"{prefix}{n}", {}, {})
            if n % 2:
                await store.delete(f"{prefix}{n}")

    repairing = asyncio.create_task(repair())
    await asyncio.gather(*(churn(prefix) for prefix in "abc"))
    done.set()
    await repairing
    real = await real_counts(database)
    assert all(count >= real[segment_id] for segment_id, count in (await counts(database)).items())
    assert max(real.values()) <= CAP


async def test_a_slot_that_was_not_used_in_time_is_not_used_at_all(database: Database) -> None:
    partitions = PartitionStore(database, "bots", CAP, claim_life_seconds=0.02)
    slots = await partitions.claim(1)
    await asyncio.sleep(0.02)
    with pytest.raises(SlotExpired, match=f"segment {slots[0].segment_id} "):
        partitions.check(slots)


async def test_entities_go_to_random_partitions_with_room_and_then_to_new_ones(database: Database) -> None:
    await database["partitions"].insert_many([{"_id": n, "bot_count": 1} for n in range(1, 6)])
    await database["counters"].insert_one({"_id": "partition_id", "seq": 5})
    partitions = PartitionStore(database, "bots", CAP, rng=random.Random(7))
    chosen = [(await partitions.claim(1))[0].segment_id for _ in range(10)]
    assert len(set(chosen)) > 1
    assert set(await counts(database)) == {1, 2, 3, 4, 5}
    assert [slot.segment_id for slot in await partitions.claim(4)] == [6, 6, 6, 7]


async def test_a_counter_behind_the_partitions_of_an_older_database_catches_up(database: Database) -> None:
    await database["partitions"].insert_many([{"_id": n, "bot_count": CAP} for n in range(1, 30)])
    [slot] = await PartitionStore(database, "bots", CAP).claim(1)
    assert slot.segment_id == 30


async def test_the_repair_finds_entities_inserted_by_hand(database: Database) -> None:
    await database["bots"].insert_many([{"id": "a", "segment_id": 7, "config": {}, "custom": {}}, {"id": "b"}])
    store = store_of(database)
    await store.partitions.repair()
    await store.partitions.repair()
    assert await store.partitions.occupied() == await real_counts(database)
    assert {entity.id for entity in await store.page() if entity.segment_id} == {"a", "b"}


async def test_the_lease_in_a_partition_is_never_touched(database: Database) -> None:
    lease = {"worker_id": "w", "epoch": 3}
    await database["partitions"].insert_one({"_id": 1, "bot_count": 2, "lease": lease})
    store = store_of(database)
    await store.create("a", {}, {})
    await store.delete("a")
    await eventually(store_of(database, claim_life_seconds=0.01).partitions.repair)
    partition = await database["partitions"].find_one({"_id": 1})
    assert partition is not None
    assert (partition["bot_count"], partition["lease"]) == (0, lease)


async def test_a_count_that_is_too_low_is_raised_at_once_though_slots_were_claimed_just_now(database: Database) -> None:
    store = store_of(database)
    await store.create("a", {}, {})
    await database["bots"].insert_one({"id": "by hand", "segment_id": 1})

    assert await store.partitions.repair() == [Repaired(1, counted=1, real=2)]


@pytest.mark.parametrize("meanwhile", ["repair", "create", "delete"])
async def test_whatever_another_process_does_within_a_repair_the_counts_come_out_right(
    database: Database, meanwhile: str
) -> None:
    at = 1
    while await repair_is_interrupted(database, at, meanwhile):
        at += 1
    assert at > 5


async def repair_is_interrupted(database: Database, at: int, meanwhile: str) -> bool:
    """Check a repair that is interrupted once. False when there was no request left to interrupt."""
    for name in ("bots", "partitions", "tombstones"):
        await database[name].delete_many({})
    await database["partitions"].insert_one({"_id": 1, "bot_count": 3})
    await database["bots"].insert_many([{"id": "a", "segment_id": 1}, {"id": "b", "segment_id": 7}, {"id": "c"}])
    other = store_of(database)
    events: dict[str, Callable[[], Awaitable[object]]] = {
        "repair": other.partitions.repair,
        "create": lambda: other.create("d", {}, {}),
        "delete": lambda: other.delete("b"),
    }
    interrupted: Any = InterruptedDatabase(database, at, events[meanwhile])
    await store_of(interrupted).partitions.repair()
    real = await real_counts(database)
    assert all(count >= real[segment_id] for segment_id, count in (await counts(database)).items())
    await eventually(lambda: repaired(store_of(database, claim_life_seconds=0.0).partitions))
    assert await counts(database) == await real_counts(database)
    return interrupted.interrupted  # type: ignore[no-any-return]


async def repaired(partitions: PartitionStore) -> bool:
    return await partitions.repair() == []


async def test_an_insert_that_took_so_long_that_its_slot_was_taken_back_is_counted_all_the_same(
    database: Database,
) -> None:
    life_seconds = 1.0

    async def freeze() -> None:
        await asyncio.sleep(life_seconds + 0.02)
        await store_of(database, life_seconds).partitions.repair()

    async def inserted() -> bool:
        interrupted: Any = InterruptedDatabase(database, 1, freeze, only="insert_many")
        await store_of(interrupted, life_seconds).create("x", {}, {})
        return True

    await eventually(inserted)

    assert await counts(database) == await real_counts(database) == {1: 1}


async def test_entities_of_a_placement_share_no_partition_with_others(database: Database) -> None:
    store = store_of(database)
    await store.create("plain", {}, {})
    for number in range(CAP + 1):
        await store.create(f"placed-{number}", {"placement": {"egress": "a"}}, {})
    await store.create("malformed", {"placement": 7}, {})
    await store.create("other", {"placement": ["egress=b"]}, {})

    segments = {entity.id: entity.segment_id for entity in await store.page()}
    placements = {one: await store.partitions.placement_of(one) for one in set(segments.values())}
    assert {name: placements[one] for name, one in segments.items()} == {
        "plain": "",
        **{f"placed-{number}": "egress=a" for number in range(CAP + 1)},
        "malformed": "",
        "other": "egress=b",
    }
    assert len([one for one in placements.values() if one == "egress=a"]) == 2
    assert await store.partitions.occupied() == await real_counts(database)


async def test_concurrent_claims_of_different_placements_open_no_partition_more_than_needed(database: Database) -> None:
    stores = [PartitionStore(database, "bots", CAP) for _ in range(6)]

    await asyncio.gather(*(store.claim(1, f"egress={number % 2}") for number, store in enumerate(stores)))

    found = [partition async for partition in database["partitions"].find({})]
    assert sorted(partition["placement"] for partition in found) == ["egress=0", "egress=1"]
    assert [partition["bot_count"] for partition in found] == [3, 3]


async def test_moved_entity_is_counted_once_and_a_changed_one_does_not_move(database: Database) -> None:
    store = store_of(database)
    await store.create("a", {}, {})
    await store.update("a", {"placement": {"egress": "a"}}, {})
    entity = await store.get("a")
    assert entity is not None

    moved = await store.move(entity)

    assert moved not in (None, entity.segment_id)
    assert await store.move(entity) is None
    assert await store.partitions.occupied() == {moved: 1}
    assert await store.partitions.placement_of(moved or 0) == "egress=a"
