"""Two workers write one entity at once: wherever one stands when the other does its work, the outcome is the same."""

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from libs.core.store.client import Database
from libs.core.store.entities import EntityStore
from libs.core.store.history import EntityEvent, EventKind, History
from libs.core.store.partitions import PartitionStore
from tests.support.faults.interruptions import InterruptedDatabase
from tests.support.rigs.published_events import SECOND, START, event

CREATED, UPDATED, DELETED = EventKind.CREATED, EventKind.UPDATED, EventKind.DELETED
MOST_REQUESTS = 25


def entity_store(database: Any) -> EntityStore:
    return EntityStore(database, "bots", PartitionStore(database, "bots", 3))


def expected(events: Iterable[EntityEvent]) -> Any:
    history = History()
    for one in events:
        history = history.after(one)
    return history.current.content["config"] if history.current is not None else None


async def outcome(database: Database, store: EntityStore) -> tuple[Any, int]:
    entity = await store.get("x")
    return entity.config if entity is not None else None, sum((await store.partitions.occupied()).values())


@pytest.mark.parametrize("before", [(), (CREATED,), (CREATED, DELETED), (DELETED, CREATED)], ids=str)
async def test_wherever_another_worker_interrupts_both_events_count(
    database: Database, before: tuple[EventKind, ...]
) -> None:
    store = entity_store(database)
    await store.ensure_indexes()
    earlier = [event(kind, position * 10) for position, kind in enumerate(before, start=1)]
    interruptions = 0
    neighbours = [(at * 10 + 5, at * 10 + 15) for at in range(max(1, len(before)))]
    places = [place for one, two in neighbours for place in ((one, two), (two, one))]
    for kinds, positions in itertools.product(itertools.product(EventKind, EventKind), places):
        mine, others = (event(kind, position) for kind, position in zip(kinds, positions, strict=True))
        wanted = expected([*earlier, mine, others])
        for at in range(1, MOST_REQUESTS):
            for name in ("bots", "partitions", "tombstones"):
                await database[name].delete_many({})
            await store.apply(earlier)
            interrupted = InterruptedDatabase(database, at, partial(store.apply, [others]))
            await entity_store(interrupted).apply([mine])
            if not interrupted.interrupted:
                break
            interruptions += 1
            found = await outcome(database, store)
            assert found == (wanted, 0 if wanted is None else 1), f"{mine} interrupted by {others} at request {at}"
        else:
            pytest.fail(f"{mine} took {MOST_REQUESTS} requests")
    assert interruptions > 50


@pytest.mark.parametrize("position", [15, 25], ids=["before its end", "after its end"])
@pytest.mark.parametrize("kind", list(EventKind), ids=str)
async def test_wherever_an_event_interrupts_a_removal_nothing_is_left_of_what_was_removed(
    database: Database, kind: EventKind, position: int
) -> None:
    store = entity_store(database)
    await store.ensure_indexes()
    ended_at = datetime.fromtimestamp(START / SECOND + 20, UTC)
    for at in range(1, MOST_REQUESTS):
        for name in ("bots", "partitions", "tombstones"):
            await database[name].delete_many({})
        await store.apply([event(CREATED, 10)])
        read = await store.get("x")
        assert read is not None
        interrupted = InterruptedDatabase(database, at, partial(store.apply, [event(kind, position)]))
        await entity_store(interrupted).remove(read, ended_at)
        if not interrupted.interrupted:
            break
        # What comes after the end may be a successor; then it is whole.
        allowed: list[tuple[Any, int]] = [(None, 0)]
        if position > 20 and kind is not DELETED:
            allowed.append(({"n": position}, 1))
        assert await outcome(database, store) in allowed, f"interrupted at request {at}"
        await store.apply([event(CREATED, 10)])
        assert await outcome(database, store) in allowed, f"raised after an interruption at request {at}"
    assert at > 3
