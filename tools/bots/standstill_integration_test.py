"""Which bots are down, by what their workers wrote and by the leases under which they do."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest_asyncio

from libs.core.leases.lease import Holder
from libs.core.run_record import RunRecord
from libs.core.store.client import Database, Mongo
from libs.core.store.entities import EntityStore
from libs.core.store.leases import LeaseStore
from libs.core.store.partitions import PartitionStore
from libs.core.store.runs import RunStore
from tests.support.rigs.open_runs import open_run
from tools.bots.standstill import Standstill

HERE = Holder("w", "i", "here")
CUSTOM = {"config": {"runtime": "python3.11", "entrypoints": {"bot": "main.py"}}, "filePath": "code.zip"}
# What MongoDB keeps of a time ends at the millisecond.
HELD_AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Bots:
    """Bots of one segment, owned or not."""

    def __init__(self, database: Database) -> None:
        self.entities = EntityStore(database, "bots", PartitionStore(database, "bots", 10))
        self.leases = LeaseStore(database, 60.0)
        self.runs = RunStore(database)
        self.standstill = Standstill(self.entities, database, self.leases)

    async def deploy(self, bot_id: str, state: str) -> int:
        """A bot of which a worker wrote that; its segment."""
        await self.entities.create(bot_id, {}, CUSTOM)
        await self.entities.set_status(bot_id, {"state": state})
        entity = await self.entities.get(bot_id)
        assert entity is not None
        return entity.segment_id

    async def own(self, segment_id: int) -> int:
        """The epoch under which a worker owns the segment from now on."""
        return (await self.leases.acquire(segment_id, HERE)).epoch

    async def begin(self, bot_id: str, segment_id: int, epoch: int) -> RunRecord:
        """A run of it."""
        run = open_run(bot_id, segment_id, epoch, HERE, started_at=HELD_AT - timedelta(hours=1))
        await self.runs.start(run)
        return run

    async def down(self, *bot_ids: str) -> dict[str, datetime | None]:
        return await self.standstill.down(bot_ids, HELD_AT)


@pytest_asyncio.fixture(loop_scope="session")
async def bots(mongo_uri: str, database_name: str) -> AsyncIterator[Bots]:
    mongo = Mongo(mongo_uri)
    yield Bots(mongo.database(database_name))
    await mongo.close()


async def test_running_bot_is_not_down(bots: Bots) -> None:
    segment = await bots.deploy("b", "running")
    await bots.begin("b", segment, await bots.own(segment))
    assert await bots.down("b") == {}


async def test_bot_is_not_standing_still_before_its_end_is_in_its_document(bots: Bots) -> None:
    segment = await bots.deploy("b", "running")
    run = await bots.begin("b", segment, await bots.own(segment))
    await bots.runs.finish(replace(run, ended_at=HELD_AT, reason="killed"))
    assert await bots.down("b") == {}


async def test_each_is_down_since_the_end_of_its_run(bots: Bots) -> None:
    for number, bot_id in enumerate(("a", "b")):
        segment = await bots.deploy(bot_id, "killed")
        run = await bots.begin(bot_id, segment, 1)
        await bots.runs.finish(replace(run, ended_at=HELD_AT + timedelta(seconds=number), reason="killed"))
    assert await bots.down("a", "b") == {"a": HELD_AT, "b": HELD_AT + timedelta(seconds=1)}


async def test_idle_bot_is_down_without_end(bots: Bots) -> None:
    segment = await bots.deploy("before", "backing-off")
    run = await bots.begin("before", segment, await bots.own(segment))
    await bots.runs.finish(replace(run, ended_at=HELD_AT - timedelta(seconds=1), reason="error"))
    await bots.deploy("never", "rejected")
    assert await bots.down("before", "never") == {"before": None, "never": None}


async def test_bot_of_lost_worker_and_host_is_down_without_recorded_end(bots: Bots) -> None:
    segment = await bots.deploy("b", "running")
    lease = await bots.leases.acquire(segment, HERE)
    await bots.begin("b", segment, lease.epoch)
    before = await bots.down("b")
    await bots.leases.release(lease)
    assert before == {}
    assert await bots.down("b") == {"b": None}
