"""A worker that is frozen with SIGSTOP for longer than its lease lives, as a real process."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from libs.core.leases.lease import Holder
from libs.core.store.client import Database, Mongo
from libs.core.store.leases import LeaseStore
from tests.support.eventually import eventually
from tests.support.rigs import owner_process as owner_process_main
from tests.support.rigs.owner_process import LIFE_SECONDS


class OwnerProcess:
    """See tests/support/rigs/owner_process.py; *lines* is what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def said(self, what: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["what"] == what]

    async def running(self) -> None:
        """Return when it has owned the segment for a while."""
        await eventually(lambda: len(self.said("tick")) > 5)

    async def ended(self) -> None:
        """Return when the process has ended and all that it printed is in *lines*."""
        await self.process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.lines.append(json.loads(line))


@contextlib.asynccontextmanager
async def owner_process(uri: str, database: str, worker_id: str) -> AsyncIterator[OwnerProcess]:
    command = (sys.executable, "-m", owner_process_main.__name__, uri, database, "1", worker_id)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    owner = OwnerProcess(process)
    try:
        yield owner
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await owner.ended()


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
        await owner.running()
        owner.signal(signal.SIGSTOP)
        await eventually(lambda: _none_live(leases))
        successor = Holder("b", "b-1", "other-host")
        other = await eventually(lambda: leases.acquire(1, successor))
        # Longer than this test takes: a lease acquired again is outside of its scope.
        await LeaseStore(database, 600).acquire(1, successor)
        seen = len(owner.lines)

        owner.signal(signal.SIGCONT)
        await eventually(lambda: any(line["what"] == "stop" for line in owner.lines[seen:]))

    after = owner.lines[seen:]
    # In each step of its handler before it was stopped, it knew that the lease was over.
    assert not any(line["proven"] for line in after)
    assert next(line["what"] for line in after if line["what"] != "tick") == "stop"
    assert not any(line["what"] == "renewed" for line in after)
    assert other.epoch == owner.lines[seen - 1]["epoch"] + 1


async def test_a_thawed_worker_whose_successor_took_over_ends_and_stops_nothing(
    mongo_uri: str, database: Database
) -> None:
    async with owner_process(mongo_uri, database.name, "a") as old:
        await old.running()
        old.signal(signal.SIGSTOP)
        async with owner_process(mongo_uri, database.name, "a") as new:
            await new.running()
            await eventually(lambda: new.lines[-1]["at"] > old.lines[-1]["until"] + 0.5)
            seen = len(old.lines)

            old.signal(signal.SIGCONT)
            await asyncio.wait_for(old.ended(), timeout=60)

            assert old.lines[-1]["what"] == "superseded"
            assert not any(line["what"] == "stop" for line in old.lines[seen:])
            assert new.lines[0]["epoch"] == old.lines[seen - 1]["epoch"] + 1
            assert not new.said("stop")


async def test_a_killed_workers_segment_is_free_after_its_life_and_not_before(
    mongo_uri: str, database: Database
) -> None:
    leases = LeaseStore(database, LIFE_SECONDS)
    async with owner_process(mongo_uri, database.name, "a") as owner:
        await owner.running()
        owner.signal(signal.SIGKILL)
        await owner.ended()
        await eventually(lambda: leases.acquire(1, Holder("b", "b-1", "h")), every_seconds=0.01)
        acquired_at = time.monotonic()

    # MongoDB counts in milliseconds. What comes late may be the machine's doing, as far as it is not very late.
    assert -0.01 < acquired_at - owner.lines[-1]["until"] < 30


async def _none_live(leases: LeaseStore) -> bool:
    return not await leases.live()
