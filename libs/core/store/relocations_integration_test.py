"""Orders to move entities are compare-and-set, expire by MongoDB's clock, and keep the counts of partitions true."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from libs.core.leases.lease import Holder
from libs.core.store.client import Database, Mongo
from libs.core.store.cordons import CordonStore
from libs.core.store.entities import Entity, EntityStore
from libs.core.store.leases import LeaseStore
from libs.core.store.partitions import PartitionStore
from libs.core.store.relocations import COMPACTION, FREED, MOVES, Relocation

TARGET = 2


class Bots:
    """A bot in segment 1 and segment 2 with a live owner and another entity."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = EntityStore(database, "bots", PartitionStore(database, "bots", 3))

    async def prepare(self) -> None:
        await self.store.create("b", {}, {})
        await self.database["bots"].update_one({"id": "b"}, {"$set": {"release": {"epoch": 9, "current": None}}})
        await self.database["bots"].insert_one({"id": "c", "segment_id": TARGET, "config": {}, "custom": {}})
        await self.database["partitions"].insert_one({"_id": TARGET, "bot_count": 1})
        await LeaseStore(self.database, 60.0).acquire(TARGET, Holder("w", "i", "h"))

    async def bot(self) -> Entity:
        found = await self.store.get("b")
        assert found is not None
        return found

    async def order(self, bot: Entity, unchanged: Mapping[str, Any] | None = None, seconds: float = 60.0) -> bool:
        return await self.store.relocations.order(
            {**bot.as_read, **(unchanged or {})},
            origin=1,
            target=TARGET,
            revision=bot.revision,
            reason=COMPACTION,
            seconds=seconds,
        )

    async def ordered(self) -> tuple[Entity, Relocation]:
        assert await self.order(await self.bot())
        bot = await self.bot()
        assert bot.relocation is not None
        return bot, bot.relocation

    async def carry_out(self) -> bool:
        bot, order = await self.ordered()
        return await self.store.relocations.carry_out("b", bot.config, order)

    async def counts(self) -> dict[int, int]:
        return await self.store.partitions.occupied()


@pytest_asyncio.fixture(loop_scope="session")
async def bots(mongo_uri: str, database_name: str) -> AsyncIterator[Bots]:
    mongo = Mongo(mongo_uri)
    made = Bots(mongo.database(database_name))
    await made.prepare()
    yield made
    await mongo.close()


async def test_order_names_both_segments_and_ends_by_mongodb_clock(bots: Bots) -> None:
    _, order = await bots.ordered()

    now = datetime.now(UTC).timestamp()
    assert (order.origin, order.target, order.reason, order.moved_at) == (1, TARGET, "compaction", None)
    assert order.deadline is not None
    assert now + 30 < order.deadline <= now + 61
    assert await bots.store.relocations.any_ordered()


async def test_entity_that_changed_or_is_ordered_already_is_not_ordered(bots: Bots) -> None:
    bot = await bots.bot()

    assert not await bots.order(bot, {"status.run_id": "r"})
    assert await bots.order(bot)
    assert not await bots.order(bot)


async def test_later_order_replaces_one_that_has_expired(bots: Bots) -> None:
    bot = await bots.bot()
    await bots.database["bots"].update_one(
        {"id": "b"}, {"$set": {"relocation": {"id": "old", "moved_at": datetime.now(UTC), "left": 1}}}
    )

    assert await bots.order(bot)

    found = (await bots.bot()).document["relocation"]
    assert set(found) == {"id", "from", "to", "revision", "reason", "deadline"}


async def test_moved_entity_is_counted_in_its_new_segment_and_the_emptied_one_is_freed(bots: Bots) -> None:
    moves, freed = MOVES.labels(COMPACTION)._value.get(), FREED._value.get()

    assert await bots.carry_out()

    bot = await bots.bot()
    assert bot.segment_id == TARGET
    assert bot.relocation is not None
    assert (bot.relocation.deadline, bot.relocation.moved_at is not None) == (None, True)
    assert "epoch" not in bot.document["release"]
    assert await bots.counts() == {TARGET: 2}
    assert not await bots.store.relocations.any_ordered()
    assert (MOVES.labels(COMPACTION)._value.get(), FREED._value.get()) == (moves + 1, freed + 1)


async def test_move_that_is_repeated_has_no_effect(bots: Bots) -> None:
    bot, order = await bots.ordered()
    assert await bots.store.relocations.carry_out("b", bot.config, order)

    assert not await bots.store.relocations.carry_out("b", bot.config, order)
    await bots.store.relocations.refuse("b", order)

    moved = (await bots.bot()).relocation
    assert moved is not None
    assert moved.deadline is None
    assert await bots.counts() == {TARGET: 2}


@pytest.mark.parametrize(
    "change",
    [
        {"relocation.deadline": datetime.now(UTC) - timedelta(seconds=1)},
        {"relocation.id": "another"},
        {"segment_id": 3},
        {"revision": 99},
    ],
    ids=["expired", "another order", "moved", "changed"],
)
async def test_move_whose_order_no_longer_holds_has_no_effect(bots: Bots, change: dict[str, Any]) -> None:
    bot, order = await bots.ordered()
    await bots.database["bots"].update_one({"id": "b"}, {"$set": change})

    assert not await bots.store.relocations.carry_out("b", bot.config, order)
    assert (await bots.counts())[TARGET] == 1


async def test_refused_order_ends_and_is_remembered(bots: Bots) -> None:
    _, order = await bots.ordered()

    await bots.store.relocations.refuse("b", order)

    refused = (await bots.bot()).relocation
    assert refused is not None
    assert refused.deadline is not None
    assert order.deadline is not None
    assert order.deadline - 70 < refused.deadline < order.deadline - 30
    assert not await bots.store.relocations.any_ordered()


@pytest.mark.parametrize("obstacle", ["full", "empty", "without an owner", "cordoned", "of another placement"])
async def test_segment_that_is_no_target_any_more_takes_no_entity(bots: Bots, obstacle: str) -> None:
    bot, order = await bots.ordered()
    partitions = bots.database["partitions"]
    if obstacle == "cordoned":
        await CordonStore(bots.database).cordon("w")
    changes: dict[str, dict[str, Any]] = {
        "full": {"$set": {"bot_count": 3}},
        "empty": {"$set": {"bot_count": 0}},
        "without an owner": {"$unset": {"lease": ""}},
        "of another placement": {"$set": {"placement": "egress=a"}},
    }
    if obstacle in changes:
        await partitions.update_one({"_id": TARGET}, changes[obstacle])

    assert not await bots.store.relocations.is_possible(order, bot.config)
    assert not await bots.store.relocations.carry_out("b", bot.config, order)
    assert (await bots.bot()).segment_id == 1


async def test_target_with_room_and_owner_is_possible(bots: Bots) -> None:
    bot, order = await bots.ordered()

    assert await bots.store.relocations.is_possible(order, bot.config)


async def test_document_of_an_older_runtime_without_a_revision_moves(bots: Bots) -> None:
    await bots.database["bots"].update_one({"id": "b"}, {"$unset": {"revision": ""}})

    assert await bots.carry_out()
