"""A worker whose connection to MongoDB stays open and passes nothing on, or no answers: who gets its segment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import pytest

from libs.core.leases.lease import Holder
from libs.core.store.client import Database, Mongo, StoreUnavailable
from libs.core.store.leases import LeaseStore
from tests.support.eventually import eventually
from tests.support.faults.tcp_proxy import TcpProxy
from tests.support.rigs.coordination import running_cluster
from tools.stack.mongod import MongoServer

LIFE_SECONDS = 5.0
A = Holder("a", "a-1", "host-1")


@asynccontextmanager
async def proxied(mongod: MongoServer, database_name: str) -> AsyncIterator[tuple[TcpProxy, Database]]:
    """A separate connection to the database through a proxy."""
    async with TcpProxy.before(mongod.port) as proxy:
        mongo = Mongo(f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true", timeout_seconds=20)
        try:
            yield proxy, mongo.database(database_name)
        finally:
            proxy.let_through()
            await mongo.close()


async def expiry(database: Database) -> datetime:
    document = await database["partitions"].find_one({"_id": 1})
    assert document is not None
    expires_at: datetime = document["lease"]["expires_at"]
    return expires_at


@pytest.mark.parametrize("held_back", ["everything", "answers"])
async def test_segment_of_a_worker_in_a_black_hole_goes_to_another_worker_and_stays_there(
    held_back: str, mongod: MongoServer, database: Database
) -> None:
    async with (
        proxied(mongod, database.name) as (proxy, through),
        running_cluster(database, life_seconds=LIFE_SECONDS) as cluster,
    ):
        await cluster.segments({1: 1})
        cluster.master()
        a = cluster.worker("a", leases=LeaseStore(through, LIFE_SECONDS))
        await eventually(lambda: a.owns == [1] and cluster.world.alive(1, "host-of-a"))
        b = cluster.worker("b")
        await eventually(lambda: b.readiness.states["master"].ok)

        proxy.hold_back() if held_back == "everything" else proxy.hold_back_answers()
        await eventually(lambda: cluster.world.alive(1, "host-of-b"))

        assert a.worker.snapshot().impediment.startswith("MongoDB")
        proxy.let_through()
        await eventually(lambda: a.worker.snapshot().impediment == "")
        assert (a.owns, b.owns, await cluster.epochs()) == ([], [1], {1: 2})
        assert [call for call in a.handler.calls if call.startswith("run")] == ["run 1/1"]


async def test_worker_without_segments_reports_its_black_hole_connection_and_is_passed_over(
    mongod: MongoServer, database: Database
) -> None:
    async with (
        proxied(mongod, database.name) as (proxy, through),
        running_cluster(database) as cluster,
    ):
        cluster.master()
        a = cluster.worker("a", leases=LeaseStore(through, 60.0))
        await eventually(lambda: a.readiness.states["master"].ok)
        proxy.hold_back()
        await eventually(lambda: a.worker.snapshot().impediment.startswith("MongoDB"))

        b = cluster.worker("b")
        await cluster.segments({1: 1, 2: 1})

        await eventually(lambda: b.owns == [1, 2])
        assert a.handler.calls == []


@pytest.mark.parametrize("request_name", ["renew", "acquire"])
async def test_request_that_arrives_after_its_limit_does_not_extend_the_lease(
    request_name: str, mongod: MongoServer, database: Database
) -> None:
    await database["partitions"].insert_one({"_id": 1, "bot_count": 1})
    async with proxied(mongod, database.name) as (proxy, through):
        leases = LeaseStore(through, 30.0)
        lease = await leases.acquire(1, A, timeout_seconds=20.0)
        for _ in range(20):  # one of these is answered fast, so that MongoDB's time is known well
            await leases.reachable(timeout_seconds=20.0)
        ends = await expiry(database)
        proxy.hold_back()
        with pytest.raises(StoreUnavailable):
            await (leases.renew if request_name == "renew" else _again(leases))(lease, timeout_seconds=0.5)
        await asyncio.sleep(1.0)  # the tolerance, and what an answer may take, twice

        arrived = await _updates(database)
        proxy.let_through()
        await eventually(lambda: _arrived_since(arrived, database))

        assert await expiry(database) == ends
        # The next one has its effect.
        await leases.renew(lease, timeout_seconds=20.0)
        assert await expiry(database) > ends


def _again(leases: LeaseStore):  # type: ignore[no-untyped-def]
    async def acquire(lease: object, *, timeout_seconds: float) -> object:
        return await leases.acquire(1, A, timeout_seconds=timeout_seconds)

    return acquire


async def _updates(database: Database) -> int:
    """How many updates and findAndModify commands the server has carried out."""
    commands = (await database.client.admin.command("serverStatus"))["metrics"]["commands"]
    return int(commands["update"]["total"]) + int(commands["findAndModify"]["total"])


async def _arrived_since(arrived: int, database: Database) -> bool:
    return await _updates(database) > arrived
