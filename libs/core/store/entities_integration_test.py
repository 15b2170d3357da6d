"""Entities, partitions, tombstones and holds in a real MongoDB."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from libs.core.store.client import Database, StoreConflict, StoreRejected
from libs.core.store.entities import Change, CodeLocation, Entity, EntityStore
from libs.core.store.history import EntityEvent, EventKind
from libs.core.store.holds import HoldTarget
from libs.core.store.partitions import PartitionStore
from libs.core.store.tombstones import TombstoneStore
from tests.support.rigs.published_events import SECOND, START
from tests.support.rigs.published_events import event as published

CUSTOM = {"config": {"runtime": "python3.11", "author": "alice"}, "filePath": "b/1.zip", "version": "1.0"}


@pytest_asyncio.fixture(loop_scope="session")
async def store(database: Database) -> EntityStore:
    entities = EntityStore(database, "bots", PartitionStore(database, "bots", 3))
    await entities.ensure_indexes()
    return entities


def event(kind: EventKind, position: int, entity_id: str = "x", **content: object) -> EntityEvent:
    custom = {} if kind is EventKind.DELETED else {"custom": CUSTOM}
    return published(kind, position, entity_id, content=custom | content)


async def entity_of(store: EntityStore) -> Entity:
    entity = await store.get("x")
    assert entity is not None
    return entity


def at(position: int) -> datetime:
    return datetime.fromtimestamp(START / SECOND + position, UTC)


async def counts(store: EntityStore) -> tuple[int, int]:
    return sum((await store.partitions.occupied()).values()), await store.count()


async def test_a_created_entity_has_the_contracts_fields_and_a_slot(store: EntityStore, database: Database) -> None:
    applied = await store.apply([event(EventKind.CREATED, 1, planet="mars")])
    document = await database["bots"].find_one({"id": "x"})
    assert document is not None
    assert {name: document[name] for name in ("id", "config", "custom", "planet", "revision")} == {
        "id": "x",
        "config": {"n": 1},
        "custom": CUSTOM,
        "planet": "mars",
        "revision": 1,
    }
    assert applied.segments == {document["segment_id"]}
    assert applied.occupancy_changed
    assert await store.partitions.occupied() == {document["segment_id"]: 1}


async def test_a_repeated_event_changes_nothing(store: EntityStore, database: Database) -> None:
    await store.apply([event(EventKind.CREATED, 1), event(EventKind.UPDATED, 2)])
    before = await database["bots"].find_one({"id": "x"})
    applied = await store.apply([event(EventKind.UPDATED, 2), event(EventKind.CREATED, 1)])
    assert await database["bots"].find_one({"id": "x"}) == before
    assert applied.changed_ids == set()


async def test_an_update_replaces_what_came_with_the_event_and_leaves_the_services_fields(
    store: EntityStore, database: Database
) -> None:
    await store.apply([event(EventKind.CREATED, 1, planet="mars")])
    await store.set_status("x", {"state": "running"})
    await database["bots"].update_one({"id": "x"}, {"$set": {"next_execution_time": 99}})
    await store.apply([event(EventKind.UPDATED, 2, moon="io")])
    document = await database["bots"].find_one({"id": "x"})
    assert document is not None
    assert "planet" not in document
    assert [document[n] for n in ("moon", "next_execution_time", "status", "revision")] == [
        "io",
        99,
        {"state": "running"},
        2,
    ]


async def test_a_deleted_entity_frees_its_slot_and_stays_dead_when_older_events_arrive(store: EntityStore) -> None:
    await store.apply([event(EventKind.CREATED, 1)])
    await store.apply([event(EventKind.DELETED, 3)])
    await store.apply([event(EventKind.UPDATED, 2), event(EventKind.CREATED, 1)])
    assert await store.get("x") is None
    assert await counts(store) == (0, 0)


async def test_a_creation_after_the_deletion_makes_it_anew(store: EntityStore) -> None:
    await store.apply([event(EventKind.DELETED, 1)])
    await store.apply([event(EventKind.CREATED, 2)])
    [made] = await store.page()
    assert [found.config for found in await store.in_segment(made.segment_id)] == [{"n": 2}]


async def test_direct_writes_are_ordered_like_events(store: EntityStore) -> None:
    await store.create("x", {"n": 1}, CUSTOM)
    await store.create("x", {"n": 2}, CUSTOM)
    entity = await store.get("x")
    assert entity is not None
    assert entity.config == {"n": 1}
    await store.update("x", {"n": 3}, CUSTOM)
    await store.apply([event(EventKind.UPDATED, 5)])
    entity = await store.get("x")
    assert entity is not None
    assert entity.config == {"n": 3}
    await store.delete("x")
    await store.apply([event(EventKind.CREATED, 6)])
    assert await store.get("x") is None


async def test_a_document_of_an_older_runtime_is_taken_as_it_is(store: EntityStore, database: Database) -> None:
    old = {
        "id": "x",
        "segment_id": 1,
        "config": {"enabled": "false"},
        "custom": {**CUSTOM, "updatedAt": "2023-11-14T22:13:22Z"},
    }
    await database["bots"].insert_one(dict(old))
    await database["partitions"].insert_one({"_id": 1, "bot_count": 1})
    entity = await store.get("x")
    assert entity is not None
    assert (entity.revision, entity.enabled, entity.runtime) == (0, False, "python3.11")
    assert entity.code == CodeLocation(None, "b/1.zip")
    await store.apply([event(EventKind.UPDATED, 1)])  # made at :21, before the document
    assert (await database["bots"].find_one({"id": "x"}))["config"] == {"enabled": "false"}  # type: ignore[index]
    await store.apply([event(EventKind.UPDATED, 9)])
    entity = await store.get("x")
    assert entity is not None
    assert (entity.revision, entity.config, entity.segment_id) == (1, {"n": 9}, 1)
    await store.apply([event(EventKind.DELETED, 10)])
    assert await counts(store) == (0, 0)


async def test_unknown_fields_with_reserved_names_are_stored_separately(store: EntityStore, database: Database) -> None:
    await store.apply([event(EventKind.CREATED, 1, "x", revision=77, **{"a.b": 1, "$set": {"x": 1}, "_id": "mine"})])
    await store.apply([event(EventKind.UPDATED, 2, "x", revision=78, **{"a.b": 2})])
    document = await database["bots"].find_one({"id": "x"})
    assert document is not None
    assert document["revision"] == 2
    assert document["event"]["kept"] == {"revision": 78, "a.b": 2}


async def test_event_cannot_replace_what_the_runtime_keeps_of_an_entity(store: EntityStore, database: Database) -> None:
    await store.apply([event(EventKind.CREATED, 1, "x")])
    own = {name: {"of": "the runtime"} for name in ("saved_state", "relocation", "release", "status")}
    await database["bots"].update_one({"id": "x"}, {"$set": own})
    forged = {name: {"of": "another bot"} for name in own}

    await store.apply([event(EventKind.UPDATED, 2, "x", **forged)])
    await store.apply([event(EventKind.UPDATED, 3, "x")])

    document = await database["bots"].find_one({"id": "x"})
    assert document is not None
    assert {name: document.get(name) for name in own} == own


async def test_configs_may_hold_dollars_dots_and_any_text(store: EntityStore) -> None:
    config = {"$where": "1", "a.b": {"$set": 1}, "": "é\n\"'", "price": 1.5, "none": None}
    await store.apply([event(EventKind.CREATED, 1, config=config)])
    await store.apply([event(EventKind.UPDATED, 2, config={"v": 2, **config})])
    entity = await store.get("x")
    assert entity is not None
    assert entity.config == {"v": 2, **config}


@pytest.mark.parametrize("value", [2**70, "\ud800", {"a\0b": 1}], ids=["huge-number", "half-a-character", "nul"])
async def test_value_unsupported_by_mongodb_is_rejected(store: EntityStore, value: object) -> None:
    with pytest.raises(StoreRejected):
        await store.apply([event(EventKind.CREATED, 1, config={"value": value})])


async def test_duplicate_id_is_error_that_names_it(database: Database) -> None:
    await database["bots"].insert_many([{"id": "x"}, {"id": "x"}])
    with pytest.raises(StoreConflict, match="x"):
        await EntityStore(database, "bots", PartitionStore(database, "bots", 3)).ensure_indexes()


async def test_many_writers_of_one_entity_lose_no_update(store: EntityStore) -> None:
    events = [event(EventKind.CREATED, 1), *(event(EventKind.UPDATED, n) for n in range(2, 12))]
    await asyncio.gather(*(store.apply([one]) for one in reversed(events)))
    entity = await store.get("x")
    assert entity is not None
    assert entity.config == {"n": 11}
    assert await counts(store) == (1, 1)


async def test_a_creation_and_the_deletion_after_it_at_once_leave_nothing(store: EntityStore) -> None:
    for n in range(30):
        entity_id = f"x{n}"
        await asyncio.gather(
            store.apply([event(EventKind.CREATED, 1, entity_id)]), store.apply([event(EventKind.DELETED, 2, entity_id)])
        )
    assert await counts(store) == (0, 0)


async def test_completed_entity_is_removed_for_good_even_after_an_event(store: EntityStore) -> None:
    await store.apply([event(EventKind.CREATED, 1)])
    read = await entity_of(store)
    await store.apply([event(EventKind.UPDATED, 2)])

    await store.remove(read, at(3))

    await store.apply([event(EventKind.CREATED, 1), event(EventKind.UPDATED, 2)])
    assert await counts(store) == (0, 0)


async def test_removal_of_outdated_entity_keeps_its_successor(store: EntityStore) -> None:
    await store.apply([event(EventKind.CREATED, 1)])
    read = await entity_of(store)
    await store.remove(read, at(3))
    await store.apply([event(EventKind.CREATED, 4)])

    assert not (await store.remove(read, at(3))).changed_ids

    await store.apply([event(EventKind.CREATED, 1)])
    assert (await entity_of(store)).config == {"n": 4}
    assert await counts(store) == (1, 1)


async def test_the_master_is_to_look_when_a_partition_got_its_first_entity_or_lost_its_last(store: EntityStore) -> None:
    changes = [
        (await store.apply([event(kind, position, entity_id)])).occupancy_changed
        for kind, position, entity_id in [
            (EventKind.CREATED, 1, "x"),
            (EventKind.CREATED, 2, "y"),
            (EventKind.DELETED, 3, "x"),
            (EventKind.DELETED, 4, "y"),
        ]
    ]
    assert changes == [True, False, False, True]


async def test_one_of_two_concurrent_compare_and_sets_succeeds(store: EntityStore) -> None:
    await store.create("x", {}, CUSTOM)
    claims = [store.compare_and_set("x", {"claim": None}, {"claim": n}) for n in range(8)]
    assert sum(await asyncio.gather(*claims)) == 1


async def test_only_changes_with_matching_expectation_are_made(store: EntityStore) -> None:
    for name in ("x", "y", "z"):
        await store.create(name, {}, CUSTOM)
    await store.compare_and_set("y", {}, {"claim": "theirs"})
    changes = [Change(name, {"claim": None}, {"claim": "ours"}) for name in ("x", "y", "z", "gone")]

    assert await store.compare_and_set_many(changes) == 2
    assert await store.compare_and_set_many([]) == 0
    found = await store.by_ids(["z", "y", "x", "gone"])
    assert [(entity.id, entity.document["claim"]) for entity in found.values()] == [
        ("x", "ours"),
        ("y", "theirs"),
        ("z", "ours"),
    ]


async def test_the_services_own_fields_are_derived_when_a_version_comes_to_count(database: Database) -> None:
    def derive(document: Mapping[str, Any], before: Mapping[str, Any] | None) -> Mapping[str, object]:
        earlier = before["next_execution_time"] if before else 0
        return {"next_execution_time": earlier + document["config"]["n"] * 10}

    store = EntityStore(database, "bots", PartitionStore(database, "bots", 3), derive=derive)
    await store.apply([event(EventKind.CREATED, 1)])
    await store.apply([event(EventKind.UPDATED, 2), event(EventKind.UPDATED, 1)])
    document = await database["bots"].find_one({"id": "x"})
    assert document is not None
    assert document["next_execution_time"] == 30


async def test_a_held_entity_stays_held_whatever_events_arrive(store: EntityStore) -> None:
    await store.apply([event(EventKind.CREATED, 1)])
    await store.holds.hold(HoldTarget.entity("x"), by="ann", reason="loses money")
    await store.apply([event(EventKind.UPDATED, 2), event(EventKind.DELETED, 3), event(EventKind.CREATED, 4)])
    entity = await store.get("x")
    assert entity is not None
    assert entity.held is not None
    assert entity.held.by == "ann"
    assert not entity.should_run
    assert await store.holds.resume(HoldTarget.entity("x"))
    assert not await store.holds.resume(HoldTarget.entity("x"))
    entity = await store.get("x")
    assert entity is not None
    assert entity.should_run


async def test_holds_by_owner_and_on_all_cover_entities_to_come(store: EntityStore) -> None:
    await store.holds.hold(HoldTarget.selector("custom.config.author=alice"))
    await store.create("hers", {}, CUSTOM)
    await store.create("his", {}, {"config": {"author": "bob"}})
    assert [entity.held is not None for entity in await store.page()] == [True, False]
    await store.holds.hold(HoldTarget.everything())
    await store.holds.resume(HoldTarget.selector("custom.config.author=alice"))
    assert [str(entity.held.target) for entity in await store.page() if entity.held] == ["all", "all"]


async def test_a_change_that_names_an_older_revision_does_nothing(store: EntityStore) -> None:
    await store.create("x", {"n": 1}, CUSTOM)
    await store.update("x", {"n": 2}, CUSTOM)
    assert not (await store.delete("x", revision=1)).changed_ids
    assert not (await store.update("x", {"n": 3}, CUSTOM, revision=1)).changed_ids
    assert (await store.delete("x", revision=2)).changed_ids == {"x"}
    assert not (await store.update("x", {"n": 3}, CUSTOM, revision=2)).changed_ids
    assert await counts(store) == (0, 0)


async def test_an_older_runtimes_index_on_the_id_is_no_obstacle(database: Database) -> None:
    await database["bots"].create_index("id")
    store = EntityStore(database, "bots", PartitionStore(database, "bots", 3))
    await store.ensure_indexes()
    await store.ensure_indexes()
    assert sum(bool(index.get("unique")) for index in (await database["bots"].index_information()).values()) == 1


async def test_a_deletion_that_was_broken_off_after_its_tombstone_is_finished(
    store: EntityStore, database: Database
) -> None:
    await store.apply([event(EventKind.CREATED, 1), event(EventKind.CREATED, 1, "y"), event(EventKind.CREATED, 1, "z")])
    await break_off_deletion(database, "x", 2)
    await break_off_deletion(database, "y", 2)
    await store.apply([event(EventKind.CREATED, 3, "y")])

    finished = await store.finish_deletions(within_seconds=600)

    assert finished.changed_ids == {"x"}
    assert [entity.id for entity in await store.page()] == ["y", "z"]
    assert await counts(store) == (2, 2)
    assert (await store.finish_deletions()).changed_ids == set()


async def test_entity_created_during_finished_deletion_stays(store: EntityStore, database: Database) -> None:
    for position in range(0, 60, 3):
        await store.apply([event(EventKind.CREATED, position + 1)])
        await break_off_deletion(database, "x", position + 2)
        await asyncio.gather(store.finish_deletions(), store.apply([event(EventKind.CREATED, position + 3)]))

        [entity] = await store.page()
        assert entity.config == {"n": position + 3}
    assert await counts(store) == (1, 1)


async def test_bot_created_again_by_a_producer_whose_clock_is_behind_is_there_and_counted(store: EntityStore) -> None:
    again = published(EventKind.CREATED, 11, "x", made_at=START + 9 * SECOND, content={"custom": CUSTOM})
    too_far = published(EventKind.CREATED, 21, "x", made_at=START + 12 * SECOND, content={"custom": CUSTOM})
    before = behind_deletion()
    await store.apply([event(EventKind.CREATED, 1)])
    await store.apply([event(EventKind.DELETED, 10)])
    for _ in range(2):  # delivered twice
        await store.apply([again])

    [entity] = await store.page()
    assert entity.config == {"n": 11}
    assert behind_deletion() == (before[0] + 1, before[1])

    await store.apply([event(EventKind.DELETED, 20)])
    await store.apply([too_far])
    assert await store.page() == []
    assert behind_deletion() == (before[0] + 1, before[1] + 1)


def behind_deletion() -> tuple[float, float]:
    """How many events made before a deletion and published after it counted, and how many were dropped."""
    name = "runtime_events_behind_deletion_total"
    accepted, dropped = (REGISTRY.get_sample_value(name, {"outcome": one}) for one in ("accepted", "dropped"))
    return accepted or 0.0, dropped or 0.0


async def break_off_deletion(database: Database, entity_id: str, position: int) -> None:
    """What a process leaves that dies just after it has written the tombstone."""
    deleted = event(EventKind.DELETED, position, entity_id).stamp
    await TombstoneStore(database).put({entity_id: deleted})
