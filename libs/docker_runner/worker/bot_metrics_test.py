"""The metrics of a worker's bots, with a store in memory."""

import asyncio
import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from libs.core.bot_metrics import LINE_BYTES, MetricBook
from libs.core.errors import Retryable
from libs.docker_runner.containers.container import ContainerState, ManagedContainer, from_labels
from libs.docker_runner.worker.bot_metrics import LATEST_BYTES, BotMetrics, BotValues, Stored, label_of

NOON = 1_800_000_000.0


@dataclass
class InMemory:
    """A store of metrics: the documents of existing entities, and their books."""

    entities: dict[str, object]
    books: dict[str, MetricBook] = field(default_factory=dict)
    saves: int = 0
    is_down: bool = False

    async def load(self, entity_ids: Collection[str]) -> Mapping[str, Stored]:
        self._answer()
        found = {key: self.entities[key] for key in entity_ids if key in self.entities}
        return {key: _Stored(entity, copy.deepcopy(self.books.get(key))) for key, entity in found.items()}

    async def save(self, books: Mapping[str, tuple[object, MetricBook]]) -> Collection[str]:
        self._answer()
        self.saves += bool(books)
        gone = {key for key, (entity, _) in books.items() if self.entities.get(key) != entity}
        self.books |= {key: copy.deepcopy(book) for key, (_, book) in books.items() if key not in gone}
        return gone

    async def existing(self, entity_ids: Collection[str]) -> Mapping[str, object]:
        self._answer()
        return {key: self.entities[key] for key in entity_ids if key in self.entities}

    def _answer(self) -> None:
        if self.is_down:
            raise Retryable("planned")


@dataclass
class _Stored:
    entity: object
    book: MetricBook | None


class Worker:
    """A worker that owns segment 1."""

    def __init__(self, store: InMemory, most_names: int = 20) -> None:
        self.owned = {1}
        self.now = 0.0
        self.metrics = BotMetrics(
            store, owns=lambda segment: segment in self.owned, most_names=most_names, clock=lambda: self.now
        )

    def prints(self, bot: str = "b1", at: float = 0.0, **fields: object) -> None:
        self.metrics.note(container(bot), NOON + at, json.dumps(fields).encode() + b"\n")


def container(bot: str, segment: int = 1) -> ManagedContainer:
    labels = {"runtime.id": bot, "runtime.segment": str(segment)}
    return from_labels(labels, container_id="c", name="n", state=ContainerState.RUNNING)


async def test_latest_value_is_stored_and_exported() -> None:
    store = InMemory({"b1": 1})
    worker = Worker(store)
    worker.prints(_metric="pnl", value=1)
    worker.prints(_metric="pnl", value=2.5, at=1)
    worker.prints(_metric="signal", side="long")
    await worker.metrics.store_once()

    assert {name: series.value for name, series in store.books["b1"].series.items()} == {"pnl": 2.5, "signal": None}
    assert worker.metrics.values() == {("b1", "pnl"): 2.5}


async def test_only_changes_are_stored() -> None:
    store = InMemory({"b1": 1, "b2": 2})
    worker = Worker(store)
    worker.prints("b1", _metric="pnl", value=1)
    await worker.metrics.store_once()
    await worker.metrics.store_once()
    worker.metrics.note(container("b2"), NOON, b'not a "_metric"\n')
    await worker.metrics.store_once()

    assert (store.saves, set(store.books)) == (1, {"b1"})


async def test_next_worker_continues_the_series() -> None:
    store = InMemory({"b1": 1})
    first, second = Worker(store), Worker(store)
    first.prints(_metric="pnl", value=1)
    await first.metrics.store_once()
    second.prints(_metric="pnl", value=2, at=60)
    await second.metrics.store_once()

    assert list(store.books["b1"].series["pnl"].points.values()) == [1, 2]


async def test_values_survive_a_store_that_is_down() -> None:
    store = InMemory({"b1": 1, "b2": 2})
    worker = Worker(store)
    worker.prints(_metric="pnl", value=1)
    await worker.metrics.store_once()
    store.is_down = True
    worker.prints(_metric="pnl", value=2, at=1)
    worker.prints("b2", _metric="pnl", value=3)
    with pytest.raises(Retryable):
        await worker.metrics.store_once()
    store.is_down = False
    await worker.metrics.store_once()

    assert {key: book.series["pnl"].value for key, book in store.books.items()} == {"b1": 2, "b2": 3}


async def test_failed_save_is_repeated() -> None:
    store = InMemory({"b1": 1})
    worker = Worker(store)
    worker.prints(_metric="pnl", value=1)
    await worker.metrics.store_once()
    worker.prints(_metric="pnl", value=2)
    store.is_down = True
    for _ in range(2):
        with pytest.raises(Retryable):
            await worker.metrics.store_once()
    store.is_down = False
    await worker.metrics.store_once()

    assert store.books["b1"].series["pnl"].value == 2


async def test_segment_that_was_given_away_is_stored_once_more_and_exported_no_more() -> None:
    store = InMemory({"b1": 1})
    worker = Worker(store)
    worker.prints(_metric="pnl", value=1)
    await worker.metrics.store_once()
    worker.prints(_metric="pnl", value=2)
    worker.owned.clear()

    assert worker.metrics.values() == {}
    await worker.metrics.store_once()
    assert store.books["b1"].series["pnl"].value == 2
    worker.owned.add(1)
    assert worker.metrics.values() == {}


async def test_bot_that_is_removed_is_exported_no_more_although_it_prints_nothing() -> None:
    store = InMemory({"b1": 1, "b2": 2})
    worker = Worker(store)
    for bot in ("b1", "b2"):
        worker.prints(bot, _metric="pnl", value=1)
    await worker.metrics.store_once()
    del store.entities["b1"]
    worker.now = 30.0
    await worker.metrics.store_once()

    assert worker.metrics.values() == {("b2", "pnl"): 1}


async def test_bot_that_was_created_again_begins_anew() -> None:
    store = InMemory({"b1": 1})
    worker = Worker(store)
    worker.prints(_metric="pnl", value=1)
    await worker.metrics.store_once()
    store.entities["b1"], store.books = 2, {}
    worker.prints(_metric="other", value=2)
    await worker.metrics.store_once()
    worker.prints(_metric="new", value=3)
    await worker.metrics.store_once()

    assert set(store.books["b1"].series) == {"new"}


async def test_bot_that_does_not_exist_is_neither_stored_nor_exported() -> None:
    store = InMemory({})
    worker = Worker(store)
    worker.prints(_metric="pnl", value=1)
    await worker.metrics.store_once()

    assert (store.books, worker.metrics.values()) == ({}, {})


async def test_names_of_a_bot_are_limited() -> None:
    store = InMemory({"b1": 1})
    worker = Worker(store, most_names=5)
    for number in range(50):
        worker.prints(_metric=f"m{number}", value=number)
    await worker.metrics.store_once()

    assert len(worker.metrics.values()) == 5
    assert store.books["b1"].left_out


async def test_only_the_latest_lines_of_a_flood_are_parsed() -> None:
    store = InMemory({"b1": 1})
    worker = Worker(store, most_names=100_000)
    # Of 64 bytes each.
    for number in range(10_000, 20_000):
        worker.prints(_metric=f"m{number}", value=number, filling="x" * 11)
    await worker.metrics.store_once()

    expected = {f"m{number}" for number in range(20_000 - LATEST_BYTES // 64, 20_000)}
    assert {name for _, name in worker.metrics.values()} == expected
    worker.prints(_metric="last", value=1)
    await worker.metrics.store_once()
    assert {name for _, name in worker.metrics.values()} == expected | {"last"}


async def test_long_lines_are_not_kept() -> None:
    store = InMemory({"b1": 1})
    worker = Worker(store)
    worker.metrics.note(container("b1"), NOON, b'{"_metric": "x", "value": 1}' + b" " * LINE_BYTES)
    await worker.metrics.store_once()

    assert store.books == {}


async def test_last_values_are_stored_when_the_worker_stops() -> None:
    store = InMemory({"b1": 1})
    worker = Worker(store)
    running = asyncio.create_task(worker.metrics.run())
    while not worker.metrics.values():
        worker.prints(_metric="pnl", value=1)
        await asyncio.sleep(0)
        await worker.metrics.store_once()
    worker.prints(_metric="pnl", value=2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert store.books["b1"].series["pnl"].value == 2


async def test_any_id_and_name_can_be_scraped() -> None:
    ids = ['a"b\\\n', "x" * 5000, "x" * 5000 + "y", "\ud800", "😀"]
    store = InMemory({key: key for key in ids})
    worker = Worker(store)
    for key in ids:
        worker.prints(key, _metric='p"\\é', value=1e308, other=float("nan"))
    await worker.metrics.store_once()
    registry = CollectorRegistry()
    registry.register(BotValues(worker.metrics))
    text = generate_latest(registry).decode()

    samples = [line for line in text.splitlines() if line.startswith("runtime_bot_value{")]
    assert len(samples) == len(set(samples)) == len(ids)
    assert all(line.endswith(" 1e+308") and len(line) < 300 for line in samples)


def test_label_of_a_long_id_is_short_and_its_own() -> None:
    labels = {label_of("x" * 128), label_of("x" * 129), label_of("x" * 130)}

    assert len(labels) == 3
    assert {len(label) for label in labels} == {128}
