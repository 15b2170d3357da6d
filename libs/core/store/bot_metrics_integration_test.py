"""The stored metrics of bots."""

import pytest
import pytest_asyncio

from libs.core.bot_metrics import MetricBook, Sample
from libs.core.store.bot_metrics import COLLECTION, BotMetricsStore
from libs.core.store.client import Database

NOON = 1_800_000_000.0


@pytest_asyncio.fixture(loop_scope="session")
async def store(database: Database) -> BotMetricsStore:
    store = BotMetricsStore(database, "bots")
    await store.ensure_indexes()
    return store


def book(value: float = 12.5) -> MetricBook:
    made = MetricBook(20)
    made.add(Sample("pnl", NOON, {"pnl": value, "pnl.$a.b": 1e308}, {"$symbol.x": "BTC\0USD"}))
    return made


async def created(database: Database, *ids: str) -> None:
    await database["bots"].insert_many([{"id": one, "segment_id": 1} for one in ids])


async def saved(store: BotMetricsStore, *ids: str, value: float = 12.5) -> set[str]:
    known = await store.load(ids)
    return await store.save({key: (stored.entity, book(value)) for key, stored in known.items()})


async def test_metrics_are_as_they_were_stored(database: Database, store: BotMetricsStore) -> None:
    await created(database, "b1", "b2")

    assert await saved(store, "b1") == set()
    found = await store.load(["b1", "b2", "gone"])
    assert set(found) == {"b1", "b2"}
    stored = found["b1"].book
    assert stored is not None
    assert stored.series == book().series
    assert found["b2"].book is None


async def test_metrics_of_an_entity_are_shown(database: Database, store: BotMetricsStore) -> None:
    await created(database, "b1", "b2")
    await saved(store, "b1")

    shown, empty = await store.of("b1"), await store.of("b2")
    assert shown is not None
    assert [(metric.name, metric.value) for metric in shown.metrics] == [("pnl", 12.5), ("pnl.$a.b", 1e308)]
    assert empty is not None
    assert empty.metrics == []
    assert await store.of("gone") is None


@pytest.mark.parametrize(
    "change",
    [
        {"series": 5},
        {"series": [{}]},
        {"series.0.at": 1e300},
        {"series.0.points": [5]},
        {"series.0.points": [[1 << 60, 1.0]]},
    ],
    ids=["number", "empty", "time", "points", "time of a point"],
)
async def test_document_of_another_form_counts_as_none_and_is_replaced(
    database: Database, store: BotMetricsStore, change: dict[str, object]
) -> None:
    await created(database, "b1")
    await saved(store, "b1")
    await database[COLLECTION].update_one({"_id": "b1"}, {"$set": change})

    shown = await store.of("b1")
    assert shown is not None
    assert shown.metrics == []
    await saved(store, "b1")
    shown = await store.of("b1")
    assert shown is not None
    assert len(shown.metrics) == 2


async def test_metrics_of_many_bots_are_all_stored(database: Database, store: BotMetricsStore) -> None:
    ids = [f"b{number}" for number in range(45)]
    await created(database, *ids)
    await saved(store, *ids)

    assert await database[COLLECTION].count_documents({}) == 45


async def test_write_after_the_removal_of_an_entity_leaves_nothing_behind(
    database: Database, store: BotMetricsStore
) -> None:
    await created(database, "b1", "b2")
    known = await store.load(["b1", "b2"])
    await database["bots"].delete_one({"id": "b1"})

    assert await store.save({key: (stored.entity, book()) for key, stored in known.items()}) == {"b1"}
    assert [document["_id"] async for document in database[COLLECTION].find()] == ["b2"]


async def test_entity_that_was_created_again_has_no_metrics_of_the_former_one(
    database: Database, store: BotMetricsStore
) -> None:
    await created(database, "b1")
    former = (await store.load(["b1"]))["b1"].entity
    await store.save({"b1": (former, book())})
    await database["bots"].delete_one({"id": "b1"})
    await created(database, "b1")

    shown = await store.of("b1")
    assert shown is not None
    assert shown.metrics == []
    assert await store.save({"b1": (former, book())}) == {"b1"}
    assert await database[COLLECTION].count_documents({}) == 0
    await saved(store, "b1", value=7)
    assert await store.save({"b1": (former, book())}) == {"b1"}


async def test_nothing_is_written_for_no_bot(store: BotMetricsStore, database: Database) -> None:
    assert await store.save({}) == set()
    assert await database[COLLECTION].count_documents({}) == 0
