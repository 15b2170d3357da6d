"""Leases while MongoDB's clock jumps: when a lease that has run out by that clock may be taken by another worker."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from libs.core.leases.boot_clock import boot_seconds
from libs.core.leases.lease import Holder, Lease, LeaseHeld, LeaseLost, TakeoverTooEarly
from libs.core.store.client import Database, Mongo
from libs.core.store.lease_updates import Attempt
from libs.core.store.leases import LeaseStore
from tests.support.eventually import eventually
from tests.support.servers.mongo_clock import SettableMongoServer

LIFE_SECONDS = 3.0
A = Holder("a", "a-1", "host-1", 1000)
A_RESTARTED = Holder("a", "a-2", "host-1", 2000)
B = Holder("b", "b-1", "host-2")
C = Holder("c", "c-1", "host-3")


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SettableMongoServer]:
    async with SettableMongoServer.start(tmp_path_factory.mktemp("mongod")) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def database(server: SettableMongoServer, tmp_path: Path) -> AsyncIterator[Database]:
    server.set_ahead(0.0)
    mongo = Mongo(server.uri, timeout_seconds=20)
    database = mongo.database(tmp_path.name)
    await database["partitions"].insert_one({"_id": 1, "bot_count": 1})
    yield database
    await mongo.close()


def store(database: Database) -> LeaseStore:
    """The leases as a process sees them that starts now."""
    return LeaseStore(database, LIFE_SECONDS, timeout_seconds=20.0)


async def standby(database: Database) -> LeaseStore:
    """The leases in a process that has known MongoDB's clock for longer than a lease lives."""
    leases = store(database)
    begun = boot_seconds()
    await eventually(lambda: _known_for(leases, begun), every_seconds=0.2)
    return leases


async def _known_for(leases: LeaseStore, begun: float) -> bool:
    await leases.reachable()
    return boot_seconds() - begun > 1.5 * LIFE_SECONDS


async def taken(leases: LeaseStore, holder: Holder) -> Lease:
    return await eventually(lambda: leases.acquire(1, holder), every_seconds=0.02)


@pytest.mark.parametrize("ahead", [0.4 + LIFE_SECONDS, 10.0, 3600.0])
async def test_lease_that_a_jump_ends_is_left_to_its_holder_until_its_proof_is_over(
    ahead: float, server: SettableMongoServer, database: Database
) -> None:
    leases = await standby(database)
    jumps = REGISTRY.get_sample_value("runtime_store_clock_jumps_total") or 0.0
    lease = await store(database).acquire(1, A)

    server.set_ahead(ahead)
    with pytest.raises(TakeoverTooEarly) as refused:
        await leases.acquire(1, B)
    assert LIFE_SECONDS - 1.0 < refused.value.remaining_seconds <= LIFE_SECONDS
    await taken(leases, B)

    assert boot_seconds() >= lease.proven_until
    assert REGISTRY.get_sample_value("runtime_store_clock_jumps_total") == jumps + 1


async def test_lease_of_a_dead_worker_is_taken_by_a_standby_without_any_wait(database: Database) -> None:
    leases = await standby(database)
    await store(database).acquire(1, A)

    refusals: list[type[Exception]] = []
    while True:
        try:
            await leases.acquire(1, B)
            break
        except LeaseHeld:
            refusals.append(LeaseHeld)
        except TakeoverTooEarly:
            refusals.append(TakeoverTooEarly)

    assert set(refusals) == {LeaseHeld}


async def test_process_that_has_just_started_waits_before_it_takes_a_dead_workers_lease(database: Database) -> None:
    lease = await store(database).acquire(1, A)
    await eventually(lambda: _run_out(database), every_seconds=0.05)
    begun = boot_seconds()

    leases = store(database)
    with pytest.raises(TakeoverTooEarly):
        await leases.acquire(1, B)
    second = await taken(leases, B)

    assert boot_seconds() - begun >= LIFE_SECONDS
    assert second.epoch == lease.epoch + 1


async def test_process_that_has_just_started_takes_free_and_released_leases_and_those_of_its_predecessor_at_once(
    database: Database,
) -> None:
    first = await store(database).acquire(1, A)
    await store(database).release(first)
    await store(database).acquire(1, A)
    await eventually(lambda: _run_out(database), every_seconds=0.05)

    restarted = await store(database).acquire(1, A_RESTARTED)

    assert restarted.epoch == 3


async def test_lease_released_before_a_jump_back_is_taken_at_once(
    server: SettableMongoServer, database: Database
) -> None:
    await store(database).release(await store(database).acquire(1, A))
    server.set_ahead(-3600.0)

    assert (await store(database).acquire(1, B)).epoch == 2


async def test_holder_of_a_lease_that_a_jump_ends_learns_that_it_is_lost(
    server: SettableMongoServer, database: Database
) -> None:
    leases = store(database)
    lease = await leases.acquire(1, A)
    server.set_ahead(10.0)

    with pytest.raises(LeaseLost):
        await leases.renew(lease)


async def test_lease_is_renewed_soon_after_a_jump_that_does_not_end_it(
    server: SettableMongoServer, database: Database
) -> None:
    leases = LeaseStore(database, 60.0)
    lease = await leases.acquire(1, A, timeout_seconds=20.0)
    server.set_ahead(30.0)

    # The first request looks late, and its answer shows how late it is by now.
    await eventually(lambda: leases.renew(lease, timeout_seconds=2.0))


async def test_lease_that_another_took_in_between_is_left_alone_although_it_has_run_out_too(
    server: SettableMongoServer, database: Database
) -> None:
    class InBetween(LeaseStore):
        async def _attempt(
            self, segment_id: int, holder: Holder, limit_seconds: float, lapsed_epoch: int | None = None
        ) -> Attempt:
            if lapsed_epoch is not None:
                await other.acquire(1, C)
                server.set_ahead(1.5 * LIFE_SECONDS)
            return await super()._attempt(segment_id, holder, limit_seconds, lapsed_epoch)

    leases = InBetween(database, LIFE_SECONDS, timeout_seconds=20.0)
    other, begun = await standby(database), boot_seconds()
    await store(database).acquire(1, A)
    await eventually(lambda: _known_for(leases, begun), every_seconds=0.2)
    await eventually(lambda: _run_out(database), every_seconds=0.05)

    with pytest.raises(LeaseHeld) as refused:
        await leases.acquire(1, B)

    assert refused.value.by == C


async def _run_out(database: Database) -> bool:
    return await database["partitions"].find_one({"$expr": {"$lte": ["$lease.expires_at", "$$NOW"]}}) is not None
