"""What is left in the history when a segment is given back."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from libs.core.store.client import Mongo
from libs.core.store.entities import EntityStore
from libs.core.store.leases import LeaseStore
from libs.core.store.partitions import PartitionStore
from libs.core.store.runs import RunFilter, RunStore
from libs.docker_runner.code.definition import CodeSources, ExecutableBuilder
from libs.docker_runner.containers.run_records import Recorder
from libs.docker_runner.executable import Entrypoint, Executable
from libs.docker_runner.settings import RunnerSettings
from services.bot_runner.records import BotRecords
from tests.support.rigs.deployed_bot import DeployedBot

NO_LOGS: Any = None  # nothing was printed


class History:
    """The records of one worker's bots."""

    def __init__(self, mongo: Mongo, database_name: str) -> None:
        database = mongo.database(database_name)
        entities = EntityStore(database, "bots", PartitionStore(database, "bots", 10))
        self.runs = RunStore(database)
        self._leases = LeaseStore(database, 5.0)
        self._entities = entities
        self._numbers = itertools.count()

    def records(self, *, segment: int, epoch: int) -> BotRecords:
        """The records of an owner of the segment."""
        return BotRecords(
            Recorder("w", "h"),
            segment_id=segment,
            epoch=epoch,
            entities=self._entities,
            runs=self.runs,
            leases=self._leases,
            logs=NO_LOGS,
        )

    async def begun(self, *, segment: int, epoch: int) -> Executable:
        """A run whose start was begun."""
        executables = ExecutableBuilder(
            settings=RunnerSettings(temp_dir=Path("/nonexistent")),
            service="s",
            scope="x",
            entrypoint=Entrypoint.BOT,
            code=CodeSources("bots"),
            segment=segment,
            epoch=epoch,
            worker="w",
            keepalive=None,
        )
        executable = executables.build(DeployedBot(f"b{next(self._numbers)}"))
        await self.records(segment=segment, epoch=epoch).begin(executable)
        return executable

    async def open_runs(self) -> list[str]:
        """The ids of the runs that have not ended."""
        return [run.run_id for run in await self.runs.list(RunFilter(open=True))]


@pytest_asyncio.fixture(loop_scope="session")
async def history(mongo_uri: str, database_name: str) -> AsyncIterator[History]:
    mongo = Mongo(mongo_uri)
    yield History(mongo, database_name)
    await mongo.close()


async def test_a_start_that_was_cut_short_does_not_stay_open_when_its_segment_is_given_back(history: History) -> None:
    cut_short = await history.begun(segment=1, epoch=3)

    await history.records(segment=1, epoch=3).segment_ended([])

    assert await history.open_runs() == []
    run = await history.runs.get(cut_short.run_id)
    assert run is not None
    assert (run.reason, run.presumed) == ("stopped", True)


async def test_what_the_next_owner_has_begun_meanwhile_stays_open(history: History) -> None:
    elsewhere = await history.begun(segment=2, epoch=1)
    of_next = await history.begun(segment=1, epoch=4)

    await history.records(segment=1, epoch=3).segment_ended([])

    assert set(await history.open_runs()) == {elsewhere.run_id, of_next.run_id}
