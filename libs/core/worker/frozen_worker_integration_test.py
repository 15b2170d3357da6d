"""A worker that is frozen with SIGSTOP for longer than its lease lives, as a real process."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from libs.core.lease import Holder
from libs.core.store.client import Database, Mongo
from libs.core.store.leases import LeaseStore
from tests.support import owner_process as owner_process_main
from tests.support.coordination import LIFE_SECONDS
from tests.support.eventually import eventually


class OwnerProcess:
    """See tests/support/owner_process.py; *lines* is what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def told(self, what: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["what"] == what]

    async def read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.lines.append(json.loads(line))


@contextlib.asynccontextmanager
async def owner_process(uri: str, database: str, worker_id: str) -> AsyncIterator[OwnerProcess]:
    command = (sys.executable, "-m", owner_process_main.__name__, uri, database, "1", worker_id)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    owner = OwnerProcess(process)
    reading = asyncio.create_task(owner.read())
    try:
        yield owner
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


@pytest_asyncio.fixture(loop_scope="session")
async def database(mongo_uri: str, database_name: str) -> AsyncIterator[Database]:
    mongo = Mongo(mongo_uri)
    database = mongo.database(database_name)
    await database["partitions"].insert_one({"_id": 1, "bot_count": 1})
    yield database
    await mongo.close()


async def test_a_thawed_worker_first_of_all_stops_its_containers(mongo_uri: str, database: Database) -> None:
    leases = LeaseStore(database, LIFE_SECONDS)
    async with owner_process(mongo_uri, database.name, "a") as owner:
        await eventually(lambda: len(owner.told("tick")) > 5, within_seconds=30)
        owner.signal(signal.SIGSTOP)
        await eventually(lambda: _none_live(leases))
        other = await leases.acquire(1, Holder("b", "b-1", "other-host"))
        seen = len(owner.lines)

        owner.signal(signal.SIGCONT)
        await eventually(lambda: owner.told("stop"))

    after = owner.lines[seen:]
    # Whatever its handler did before it was stopped, it knew that the lease was over.
    assert not any(line["proven"] for line in after)
    assert next(line["what"] for line in after if line["what"] != "tick") == "stop"
    assert not any(line["what"] == "renewed" for line in after)
    assert other.epoch == 2


async def test_a_thawed_worker_whose_successor_took_over_ends_and_stops_nothing(
    mongo_uri: str, database: Database
) -> None:
    async with owner_process(mongo_uri, database.name, "a") as old:
        await eventually(lambda: len(old.told("tick")) > 5, within_seconds=30)
        old.signal(signal.SIGSTOP)
        async with owner_process(mongo_uri, database.name, "a") as new:
            await eventually(lambda: len(new.told("tick")) > 5, within_seconds=30)
            await eventually(lambda: new.lines[-1]["at"] - old.told("renewed")[-1]["at"] > 1.2 * LIFE_SECONDS)

            old.signal(signal.SIGCONT)
            await asyncio.wait_for(old.process.wait(), timeout=10)

            assert old.told("superseded")
            assert not old.told("stop")
            assert new.lines[0]["epoch"] == 2
            assert not new.told("stop")


async def test_a_killed_workers_segment_is_free_after_its_life_and_not_before(
    mongo_uri: str, database: Database
) -> None:
    leases = LeaseStore(database, LIFE_SECONDS)
    async with owner_process(mongo_uri, database.name, "a") as owner:
        await eventually(lambda: len(owner.told("tick")) > 5, within_seconds=30)
        owner.signal(signal.SIGKILL)
        await owner.process.wait()
        last_proof = owner.told("renewed")[-1]["at"]
        lease = await eventually(lambda: leases.acquire(1, Holder("b", "b-1", "h")), every_seconds=0.01)

    acquired_at = lease.proven_until - LIFE_SECONDS
    assert LIFE_SECONDS - 0.3 < acquired_at - last_proof < LIFE_SECONDS + 1.0


async def _none_live(leases: LeaseStore) -> bool:
    return not await leases.live()
