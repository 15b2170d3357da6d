"""The leading master orders one move at a time, of entities at rest, and only in a calm fleet."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from libs.core.coordination import HeldSegment, WorkerIdentity, WorkerState
from libs.core.master.compactor import Compactor, moved_lately
from libs.core.master.registry import SessionId, Worker
from libs.core.master.status import MasterSnapshot, SegmentState, SegmentStatus, worker_status
from libs.core.store.client import Database, Mongo
from libs.core.store.entities import Entity, EntityStore
from libs.core.store.partitions import PartitionStore

NOW = datetime.now(UTC).timestamp()


@dataclass
class Known:
    """What a master knows about one worker with two segments; its clock is that of the test."""

    leads: bool = True
    problem: str = ""
    counts: dict[int, int] = field(default_factory=lambda: {1: 3, 2: 2})

    def now(self) -> float:
        return NOW

    def snapshot(self) -> MasterSnapshot:
        state = WorkerState(held=tuple(HeldSegment(number, 1) for number in self.counts))
        worker = Worker(SessionId(1), WorkerIdentity("w", "i", "h"), state, 1, 0.0, 0.0, decided=frozenset(self.counts))
        segments = [SegmentStatus(one, count, SegmentState.OWNED, "w", 1) for one, count in self.counts.items()]
        snapshot = MasterSnapshot("m", True, "m", 1, 0.0, "", [], 16, segments, [worker_status(worker, 0.0)])
        return replace(snapshot, problem=self.problem)


class Bots:
    def __init__(self, database: Database) -> None:
        self.collection = database["bots"]
        self.store = EntityStore(database, "bots", PartitionStore(database, "bots", 10))
        self.known = Known()
        self.resting = {"b1", "b2", "b3", "b4", "b5"}

    async def prepare(self) -> None:
        for number, segment in enumerate([1, 1, 1, 2, 2], start=1):
            await self.collection.insert_one({"id": f"b{number}", "segment_id": segment, "revision": 1, "config": {}})

    def compactor(self, pause_seconds: float = 0.0) -> Compactor:
        def is_at_rest(entity: Entity, now: float) -> bool:
            assert now == NOW
            return entity.id in self.resting

        known: Any = self.known
        return Compactor(self.store, known, is_at_rest, capacity=10, pause_seconds=pause_seconds)

    async def ordered(self) -> list[tuple[str, int, int]]:
        """The ids of the ordered entities, with both segments."""
        return [
            (one.id, one.relocation.origin, one.relocation.target)
            async for one in self.store.all()
            if one.relocation is not None
        ]


@pytest_asyncio.fixture(loop_scope="session")
async def bots(mongo_uri: str, database_name: str) -> AsyncIterator[Bots]:
    mongo = Mongo(mongo_uri)
    made = Bots(mongo.database(database_name))
    await made.prepare()
    yield made
    await mongo.close()


async def test_one_entity_of_the_smaller_segment_is_ordered_to_move_at_a_time(bots: Bots) -> None:
    compactor = bots.compactor()

    for _ in range(3):
        await compactor.look()

    assert await bots.ordered() == [("b4", 2, 1)]


async def test_nothing_is_ordered_before_the_pause_is_over(bots: Bots) -> None:
    compactor = bots.compactor(pause_seconds=3600.0)

    for _ in range(3):
        await compactor.look()

    assert await bots.ordered() == []


async def test_segment_with_an_entity_that_is_not_at_rest_is_not_begun(bots: Bots) -> None:
    bots.resting -= {"b5"}

    await bots.compactor().look()

    assert await bots.ordered() == []


async def test_next_segment_is_emptied_where_the_smallest_one_cannot_be(bots: Bots) -> None:
    bots.known.counts = {1: 3, 2: 2, 3: 4}
    bots.resting -= {"b5"}

    await bots.compactor().look()

    assert await bots.ordered() == [("b1", 1, 3)]


@pytest.mark.parametrize(("ago_seconds", "moves"), [(3599.0, False), (3601.0, True)])
async def test_entity_that_moved_within_the_last_hour_does_not_move_again(
    bots: Bots, ago_seconds: float, moves: bool
) -> None:
    moved_at = datetime.fromtimestamp(NOW - ago_seconds, UTC)
    last = {"id": "o", "from": 3, "to": 2, "revision": 1, "reason": "compaction", "moved_at": moved_at}
    await bots.collection.update_one({"id": "b5"}, {"$set": {"relocation": last}})
    entity = await bots.store.get("b5")
    assert entity is not None

    await bots.compactor().look()

    assert moved_lately(entity, NOW) is not moves
    assert (("b4", 2, 1) in await bots.ordered()) is moves


@pytest.mark.parametrize("state", [{"leads": False}, {"problem": "MongoDB is away"}, {"counts": {1: 10, 2: 2}}])
async def test_nothing_is_ordered_without_leadership_or_an_unsettled_or_full_fleet(
    bots: Bots, state: dict[str, Any]
) -> None:
    for name, value in state.items():
        setattr(bots.known, name, value)

    await bots.compactor().look()

    assert await bots.ordered() == []
