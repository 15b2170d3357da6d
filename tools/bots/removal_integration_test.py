"""A removed bot is waited for as long as something of it may run, and no longer."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from libs.core.leases.lease import Holder
from libs.core.process.service import BOT_RUNNER
from libs.core.store.client import Database, Mongo
from libs.core.store.entities import EntityStore
from libs.core.store.leases import LeaseStore
from libs.core.store.partitions import PartitionStore
from libs.core.store.runs import RunFilter, RunStore
from tests.support.rigs.open_runs import open_run
from tools.bots.outcome import NotInTime
from tools.bots.removal import Removal

HERE = Holder("w", "i", "here")
CUSTOM = {"config": {"runtime": "python3.11", "entrypoints": {"bot": "main.py"}}, "filePath": "code.zip"}


class Left:
    """What the worker left of a bot."""

    def __init__(self, database: Database) -> None:
        self.entities = EntityStore(database, "bots", PartitionStore(database, "bots", 10))
        self.leases = LeaseStore(database, 60.0)
        self.runs = RunStore(database)
        self._partitions = database["partitions"]
        self.removal = Removal(BOT_RUNNER, self.entities, database, self.leases)

    async def bot(self) -> int:
        """The segment of a bot that is still there."""
        await self.entities.create("b", {}, CUSTOM)
        entity = await self.entities.get("b")
        assert entity is not None
        return entity.segment_id

    async def lose(self, segment_id: int) -> None:
        """Let the lease of the segment run out."""
        ended = {"$set": {"lease.expires_at": {"$subtract": ["$$NOW", 1000]}}}
        await self._partitions.update_one({"_id": segment_id}, [ended])

    async def run(self, segment_id: int, epoch: int) -> None:
        """A run whose end was not observed."""
        await self.runs.start(open_run("b", segment_id, epoch, HERE))


@pytest_asyncio.fixture(loop_scope="session")
async def left(mongo_uri: str, database_name: str) -> AsyncIterator[Left]:
    mongo = Mongo(mongo_uri)
    yield Left(mongo.database(database_name))
    await mongo.close()


async def test_a_bot_that_is_still_there_is_not_gone(left: Left) -> None:
    await left.bot()

    with pytest.raises(NotInTime, match="bot 'b' was not removed"):
        await left.removal.until_gone("b", 0.2)


async def test_removal_waits_while_run_may_be_alive(left: Left) -> None:
    segment_id = await left.bot()
    lease = await left.leases.acquire(segment_id, HERE)
    await left.run(segment_id, lease.epoch)
    await left.entities.delete("b")

    with pytest.raises(NotInTime, match="bot 'b' was not removed"):
        await left.removal.until_gone("b", 0.2)


async def test_removal_of_lost_workers_bot_ends_with_lease(left: Left) -> None:
    segment_id = await left.bot()
    lease = await left.leases.acquire(segment_id, HERE)
    await left.run(segment_id, lease.epoch)
    await left.entities.delete("b")
    await left.leases.release(lease)

    leftovers = await left.removal.until_gone("b", 20)

    assert [(one.worker, one.host) for one in leftovers] == [("w", "here")]
    [run] = await left.runs.list(RunFilter(entity_id="b"))
    assert run.ended_at is None


async def test_bot_in_segment_without_owner_is_removed_without_worker(left: Left) -> None:
    segment_id = await left.bot()
    lease = await left.leases.acquire(segment_id, HERE)
    await left.run(segment_id, lease.epoch)
    await left.lose(segment_id)

    leftovers = await left.removal.until_gone("b", 20)

    assert await left.entities.get("b") is None
    assert [str(one) for one in leftovers] == ["an unfinished start on host here (worker w)"]


async def test_bot_in_owned_segment_is_left_to_its_owner(left: Left) -> None:
    await left.leases.acquire(await left.bot(), HERE)

    with pytest.raises(NotInTime, match="bot 'b' was not removed"):
        await left.removal.until_gone("b", 2)

    assert await left.entities.get("b") is not None
