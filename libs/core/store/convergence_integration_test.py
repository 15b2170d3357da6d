"""With any order, repetition and crashes, MongoDB reaches the state given by the order of publishing."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from libs.core.store.client import Mongo
from libs.core.store.entities import EntityStore
from libs.core.store.history import EntityEvent, EventKind, Stamp
from libs.core.store.partitions import PartitionStore
from tests.support.faults.crashing_database import Crashed, CrashingDatabase
from tests.support.rigs.published_events import START

IDS = st.sampled_from(["a", "b", "c", "d", "e", "f"])
COLLECTIONS = ("bots", "partitions", "counters", "tombstones", "holds")
CAP = 2
SETTINGS = settings(
    max_examples=40, stateful_step_count=16, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False
)


class Convergence(RuleBasedStateMachine):
    """Events are published one after another; what workers do with them comes in any order."""

    def __init__(self, runner: asyncio.Runner, database: Any, converged: list[int]) -> None:
        super().__init__()
        self.converged = converged
        self.runner = runner
        self.database = database
        self.published: list[EntityEvent] = []
        self.acknowledged: set[Stamp] = set()
        self.now, self.stream, self.sequence = START, START, 0
        self.store = self.new_store(database)
        # No claims are made during this repair, so none is too young for it.
        self.repairer = PartitionStore(database, "bots", CAP, claim_life_seconds=0.0)

    @staticmethod
    def new_store(database: Any) -> EntityStore:
        return EntityStore(database, "bots", PartitionStore(database, "bots", CAP))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    @initialize()
    def start_empty(self) -> None:
        async def empty() -> None:
            for name in COLLECTIONS:
                await self.database[name].delete_many({})

        self.run(empty())

    @rule(entity_id=IDS, kind=st.sampled_from(EventKind), lag=st.sampled_from([1, 900, None]), gap=st.integers(1, 3))
    def publish(self, entity_id: str, kind: EventKind, lag: int | None, gap: int) -> None:
        self.now += gap * 1000
        self.sequence += 1
        made_at = None if kind is EventKind.DELETED or lag is None else self.now - lag
        stamp = Stamp.of(self.now, made_at=made_at, stream=self.stream, sequence=self.sequence)
        n = len(self.published)
        content = {} if kind is EventKind.DELETED else {"config": {"n": n}, "custom": {}, f"extra{n % 2}": n}
        self.published.append(EntityEvent(entity_id, kind, stamp, content))

    @rule()
    def make_the_stream_anew(self) -> None:
        self.now += 1000
        self.stream, self.sequence = self.now, 0

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        self.run(self.apply(self.store, self.some(data)))

    @rule(data=st.data())
    def deliver_to_two_workers_at_once(self, data: st.DataObject) -> None:
        mine, others = self.some(data), self.some(data)

        async def both() -> None:
            await asyncio.gather(self.apply(self.store, mine), self.apply(self.new_store(self.database), others))

        self.run(both())

    @rule(entity_id=IDS, kinds=st.lists(st.sampled_from(EventKind), min_size=2, max_size=4))
    def publish_and_deliver_to_a_worker_each_at_once(self, entity_id: str, kinds: list[EventKind]) -> None:
        for kind in kinds:
            self.publish(entity_id, kind, 1, 1)
        events = self.published[-len(kinds) :]

        async def all_at_once() -> None:
            await asyncio.gather(*(self.apply(self.new_store(self.database), [event]) for event in events))

        self.run(all_at_once())

    @rule(data=st.data(), at_write=st.integers(1, 6), after_it=st.booleans())
    def deliver_and_die(self, data: st.DataObject, at_write: int, after_it: bool) -> None:
        events = self.some(data)

        async def die() -> None:
            try:
                await self.new_store(CrashingDatabase(self.database, at_write, after_it)).apply(events)
            except Crashed:
                return

        self.run(die())

    @rule()
    def repair(self) -> None:
        self.run(self.repairer.repair())

    @rule(data=st.data())
    def repair_while_events_are_delivered(self, data: st.DataObject) -> None:
        events = self.some(data)

        async def both() -> None:
            await asyncio.gather(self.apply(self.store, events), self.store.partitions.repair())

        self.run(both())

    async def apply(self, store: EntityStore, events: list[EntityEvent]) -> None:
        """Apply and acknowledge: these need not come again."""
        await store.apply(events)
        self.acknowledged.update(event.stamp for event in events)

    def some(self, data: st.DataObject) -> list[EntityEvent]:
        return data.draw(st.lists(st.sampled_from(self.published), max_size=5)) if self.published else []

    def teardown(self) -> None:
        try:
            self.run(self.what_is_left_comes_and_all_converges())
        finally:
            super().teardown()

    async def what_is_left_comes_and_all_converges(self) -> None:
        for event in self.published[::-1]:
            if event.stamp not in self.acknowledged:
                await self.apply(self.store, [event])
        await asyncio.sleep(0.002)  # the server's clock, in milliseconds, must have passed the last claim
        await self.repairer.repair()
        entities = await self.store.page()
        assert {e.id: self.content(e.document) for e in entities} == self.expected()
        real: dict[int, int] = {}
        for entity in entities:
            real[entity.segment_id] = real.get(entity.segment_id, 0) + 1
        assert await self.store.partitions.occupied() == real
        assert max(real.values(), default=0) <= CAP
        self.converged.append(len(entities))

    def expected(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for event in self.published:
            if event.kind is EventKind.DELETED:
                state.pop(event.id, None)
            elif event.kind is EventKind.UPDATED or event.id not in state:
                state[event.id] = event.content
        return state

    @staticmethod
    def content(document: Any) -> dict[str, Any]:
        ours = ("_id", "id", "segment_id", "revision", "event", "alternates", "trace")
        return {name: value for name, value in document.items() if name not in ours}


def test_events_converge_whatever_happens(mongo_uri: str, database_name: str) -> None:
    converged: list[int] = []
    with asyncio.Runner() as runner:
        mongo = Mongo(mongo_uri, timeout_seconds=20)
        try:
            database = mongo.database(database_name)
            runner.run(Convergence.new_store(database).ensure_indexes())
            machine: Any = partial(Convergence, runner, database, converged)
            run_state_machine_as_test(machine, settings=SETTINGS)
        finally:
            runner.run(mongo.close())
    # Each example holds what MongoDB has against what was published; of some there is something left.
    assert max(converged) > 0
