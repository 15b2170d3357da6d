"""Leases against a real MongoDB: who gets one, for how long, and what a failover or a wrong clock cannot do."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.core.leases.lease import Holder, Lease, LeaseHeld, LeaseLost, SegmentMissing, Taken
from libs.core.store.client import Database, Mongo, StoreUnavailable
from libs.core.store.leases import LeadershipStore, LeaseStore
from tests.support.eventually import eventually
from tools.stack.mongod import MongoServer

A = Holder("a", "a-1", "host-1")
A_RESTARTED = Holder("a", "a-2", "host-1")
A_ELSEWHERE = Holder("a", "a-3", "host-2")
B = Holder("b", "b-1", "host-1")
SHORT_SECONDS = 0.2


@pytest_asyncio.fixture(loop_scope="session")
async def database(mongo_uri: str, database_name: str) -> AsyncIterator[Database]:
    mongo = Mongo(mongo_uri, timeout_seconds=20)
    database = mongo.database(database_name)
    await database["partitions"].insert_many([{"_id": 0, "bot_count": 0}, {"_id": 1, "bot_count": 3}])
    yield database
    await mongo.close()


@pytest.fixture
def leases(database: Database) -> LeaseStore:
    return LeaseStore(database, life_seconds=30.0, timeout_seconds=20.0)


@pytest.fixture
def short(database: Database) -> LeaseStore:
    return LeaseStore(database, life_seconds=SHORT_SECONDS, timeout_seconds=20.0)


async def test_a_free_segment_is_acquired_and_seen_by_all(leases: LeaseStore) -> None:
    lease = await leases.acquire(1, A)

    (seen,) = await leases.live()
    assert (lease.segment_id, lease.holder, lease.epoch) == (1, A, 1)
    assert (seen.segment_id, seen.holder, seen.epoch) == (1, A, 1)
    assert 20 < seen.remaining_seconds <= 30


async def test_refusal_of_a_held_segment_names_holder_and_remaining_time(leases: LeaseStore) -> None:
    await leases.acquire(1, A)

    with pytest.raises(LeaseHeld, match="segment 1 is held by a") as refused:
        await leases.acquire(1, B)

    assert refused.value.by == A
    assert 20 < refused.value.remaining_seconds <= 30


async def test_a_segment_that_does_not_exist_is_not_made(leases: LeaseStore, database: Database) -> None:
    with pytest.raises(SegmentMissing):
        await leases.acquire(99, A)

    assert await database["partitions"].count_documents({}) == 2


async def test_a_lease_that_has_run_out_goes_to_the_next_with_a_higher_epoch(short: LeaseStore) -> None:
    first = await short.acquire(1, A)

    second = await eventually(lambda: short.acquire(1, B), every_seconds=0.02)

    assert second.epoch == first.epoch + 1
    with pytest.raises(LeaseLost) as lost:
        await short.renew(first)
    assert lost.value.taken is not Taken.BY_SAME_WORKER


async def test_expired_lease_cannot_be_renewed_even_if_free(short: LeaseStore) -> None:
    lease = await short.acquire(1, A)
    await eventually(lambda: _none_live(short), every_seconds=0.02)

    with pytest.raises(LeaseLost):
        await short.renew(lease)


async def test_a_renewal_gives_a_lease_its_whole_life_again(leases: LeaseStore) -> None:
    lease = await leases.acquire(1, A)
    await eventually(lambda: _remains_less_than(leases, 29.8), every_seconds=0.02)

    renewed = await leases.renew(lease)

    before, after = (lease.proven_until, renewed.proven_until)
    assert (renewed.epoch, after > before + 0.1) == (1, True)
    [seen] = await leases.live()
    # By the server's clock it ends with its proof, or later by as long as the request took.
    assert time.monotonic() + seen.remaining_seconds > after - 0.1


async def test_lease_lasts_its_whole_life_from_when_the_server_had_the_request(
    leases: LeaseStore, database: Database
) -> None:
    life = timedelta(seconds=leases.life_seconds)
    before = await _server_time(database)
    lease = await leases.acquire(1, A)
    between = await _server_time(database)
    assert before + life <= await _expiry(database) <= between + life

    await eventually(lambda: _remains_less_than(leases, 29.9), every_seconds=0.02)
    between = await _server_time(database)
    await leases.renew(lease)
    assert between + life <= await _expiry(database) <= await _server_time(database) + life


async def test_a_restarted_worker_takes_its_lease_over_at_once(leases: LeaseStore) -> None:
    old = await leases.acquire(1, A)

    new = await leases.acquire(1, A_RESTARTED)

    assert new.epoch == old.epoch + 1
    with pytest.raises(LeaseLost, match="newer process") as lost:
        await leases.renew(old)
    assert lost.value.taken is Taken.BY_SAME_WORKER


async def test_an_older_process_does_not_take_the_lease_from_its_successor(leases: LeaseStore) -> None:
    older, newer = replace(A, started_at_milliseconds=1000), replace(A_RESTARTED, started_at_milliseconds=2000)
    old = await leases.acquire(1, older)
    assert await leases.taken(old) is Taken.NO
    await leases.acquire(1, newer)

    with pytest.raises(LeaseHeld) as refused:
        await leases.acquire(1, older)

    assert refused.value.by == newer
    assert await leases.taken(old) is Taken.BY_SAME_WORKER


A_BOOTED = replace(A, boot_id="boot-1")
B_BOOTED = replace(B, boot_id="boot-1")


async def test_lease_of_a_dead_neighbour_is_taken_over_by_one_update_of_exactly_that_lease(leases: LeaseStore) -> None:
    old = await leases.acquire(1, A_BOOTED)
    [former] = await leases.held_by(A_BOOTED)

    new = await leases.acquire(1, B_BOOTED, former=former)

    assert (former.epoch, new.epoch, new.holder) == (old.epoch, old.epoch + 1, B_BOOTED)
    assert await leases.held_by(A_BOOTED) == []
    assert [view.holder for view in await leases.held_by(B_BOOTED)] == [B_BOOTED]
    with pytest.raises(LeaseLost, match="another worker of this engine") as lost:
        await leases.renew(old)
    assert lost.value.taken is Taken.BY_NEIGHBOUR
    assert await leases.taken(old) is Taken.BY_NEIGHBOUR
    with pytest.raises(LeaseHeld):
        await leases.acquire(1, replace(B_BOOTED, worker_id="c", instance_id="c-1"), former=former)


@pytest.mark.parametrize(
    "other",
    [
        replace(A_BOOTED, worker_id="x"),
        replace(A_BOOTED, instance_id="x"),
        replace(A_BOOTED, host="x"),
        replace(A_BOOTED, boot_id="x"),
        A,
    ],
)
async def test_lease_of_another_process_than_the_dead_one_is_not_taken_over(leases: LeaseStore, other: Holder) -> None:
    await leases.acquire(1, A_BOOTED)
    [former] = await leases.held_by(A_BOOTED)

    with pytest.raises(LeaseHeld):
        await leases.acquire(1, B_BOOTED, former=replace(former, holder=other))
    with pytest.raises(LeaseHeld):
        await leases.acquire(1, B_BOOTED, former=replace(former, epoch=former.epoch + 1))


async def test_lease_with_a_key_is_held_by_the_process_whose_lock_does_not_show_the_key(leases: LeaseStore) -> None:
    with_key = replace(A_BOOTED, public_key=b"key")
    await leases.acquire(1, with_key)

    assert [view.holder for view in await leases.held_by(A_BOOTED)] == [with_key]


async def test_lease_of_an_older_version_is_held_by_no_process_with_a_lock(
    leases: LeaseStore, database: Database
) -> None:
    await leases.acquire(1, A_BOOTED)
    await database["partitions"].update_one({"_id": 1}, {"$unset": {"lease.boot_id": 1}})

    assert await leases.held_by(A_BOOTED) == []


async def test_expired_lease_of_a_dead_neighbour_is_not_taken_over(short: LeaseStore) -> None:
    await short.acquire(1, A_BOOTED)
    [former] = await short.held_by(A_BOOTED)
    await eventually(partial(no_live_lease, short))

    with pytest.raises((LeaseHeld, StoreUnavailable)):
        await short.acquire(1, B_BOOTED, former=former)


@pytest.mark.parametrize("successor", [B, replace(B_BOOTED, host="host-2"), replace(B, boot_id="boot-2")])
async def test_successor_on_another_engine_or_boot_has_not_taken_over_the_containers(
    leases: LeaseStore, successor: Holder
) -> None:
    old = await leases.acquire(1, A_BOOTED)
    await leases.release(old)
    await leases.acquire(1, successor)

    assert await leases.taken(old) is Taken.NO
    with pytest.raises(LeaseLost) as lost:
        await leases.renew(old)
    assert lost.value.taken is not Taken.BY_NEIGHBOUR


async def no_live_lease(leases: LeaseStore) -> bool:
    return await leases.live() == []


async def test_a_worker_of_the_same_name_on_another_host_has_to_wait(leases: LeaseStore) -> None:
    await leases.acquire(1, A)

    with pytest.raises(LeaseHeld):
        await leases.acquire(1, A_ELSEWHERE)


async def test_a_released_segment_is_free_at_once_and_its_epoch_goes_on(leases: LeaseStore) -> None:
    await leases.release(await leases.acquire(1, A))
    assert await leases.live() == []

    assert (await leases.acquire(1, B)).epoch == 2


async def test_release_of_lease_with_new_holder_changes_nothing(leases: LeaseStore) -> None:
    old = await leases.acquire(1, A)
    new = await leases.acquire(1, A_RESTARTED)

    await leases.release(old)

    assert [view.holder for view in await leases.live()] == [A_RESTARTED]
    await leases.renew(new)


async def test_a_released_lease_cannot_be_renewed(leases: LeaseStore) -> None:
    lease = await leases.acquire(1, A)
    await leases.release(lease)
    await leases.release(lease)

    with pytest.raises(LeaseLost):
        await leases.renew(lease)


async def test_exactly_one_of_many_racing_workers_acquires_segment(leases: LeaseStore) -> None:
    holders = [Holder(f"w{number}", f"w{number}-1", f"h{number}") for number in range(20)]

    outcomes = await asyncio.gather(*(leases.acquire(1, holder) for holder in holders), return_exceptions=True)

    won = [outcome for outcome in outcomes if isinstance(outcome, Lease)]
    assert len(won) == 1
    assert all(
        isinstance(outcome, LeaseHeld) and outcome.by == won[0].holder for outcome in outcomes if outcome not in won
    )


async def test_a_wrong_clock_of_the_client_gains_nothing(database: Database) -> None:
    ahead = LeaseStore(database, 30.0, timeout_seconds=20.0, clock=lambda: 10_000_000.0)
    behind = LeaseStore(database, 30.0, timeout_seconds=20.0, clock=lambda: 0.0)
    await behind.acquire(1, A)

    with pytest.raises(LeaseHeld) as refused:
        await ahead.acquire(1, B)

    assert 20 < refused.value.remaining_seconds <= 30


async def test_the_proof_counts_from_when_the_request_was_sent(database: Database) -> None:
    now = 100.0
    leases = LeaseStore(database, 5.0, timeout_seconds=20.0, clock=lambda: now)

    lease = await leases.acquire(1, A)
    now = 200.0
    renewed = await leases.renew(lease)

    assert lease.proven_until == 105.0
    assert renewed.proven_until == 205.0


async def test_ids_that_look_like_expressions_are_taken_as_they_are(leases: LeaseStore) -> None:
    strange = Holder("$bot_count", "$$NOW", "$lease.host")
    lease = await leases.acquire(1, strange)

    with pytest.raises(LeaseHeld):
        await leases.acquire(1, replace(A, worker_id="3"))
    assert (await leases.renew(lease)).holder == strange


async def test_the_survey_shows_segments_with_entities_or_a_live_lease(leases: LeaseStore, database: Database) -> None:
    await database["partitions"].insert_many([{"_id": 5, "bot_count": 0}, {"_id": 6, "bot_count": 1, "lease": None}])
    await leases.acquire(5, A)

    survey = await leases.survey()

    assert [(view.segment_id, view.bot_count) for view in survey] == [(1, 3), (5, 0), (6, 1)]
    assert [view.lease.holder if view.lease is not None else None for view in survey] == [None, A, None]


async def test_a_database_that_does_not_answer_is_no_empty_survey_and_no_lost_lease(tmp_path: Path) -> None:
    async with MongoServer.start(tmp_path) as server:
        mongo = Mongo(server.uri, timeout_seconds=20)
        leases = LeaseStore(mongo.database("d"), 30.0, timeout_seconds=0.3)
        await mongo.database("d")["partitions"].insert_one({"_id": 1, "bot_count": 1})
        lease = await leases.acquire(1, A, timeout_seconds=20.0)
        server.pause()
        try:
            for request in (leases.renew(lease), leases.acquire(1, B), leases.release(lease), leases.reachable()):
                with pytest.raises(StoreUnavailable):
                    await request
            with pytest.raises(StoreUnavailable):
                await leases.survey(timeout_seconds=0.3)
        finally:
            server.resume()
            await mongo.close()


HOLDERS = (A, A_RESTARTED, A_ELSEWHERE, B)
STEPS = st.lists(
    st.tuples(st.sampled_from(["acquire", "acquire", "renew", "release"]), st.integers(0, len(HOLDERS) - 1)),
    max_size=25,
)


@given(steps=STEPS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_in_any_order_of_operations_there_is_one_holder_and_the_epoch_only_rises(
    leases: LeaseStore, database: Database, steps: list[tuple[str, int]]
) -> None:
    await database["partitions"].replace_one({"_id": 1}, {"_id": 1, "bot_count": 1})
    held: dict[Holder, Lease] = {}
    owner: Holder | None = None
    epoch = 0
    for operation, number in steps:
        holder = HOLDERS[number]
        if operation == "acquire":
            same_worker = owner is not None and (owner.worker_id, owner.host) == (holder.worker_id, holder.host)
            if owner is None or same_worker:
                held[holder] = await leases.acquire(1, holder)
                epoch += 1
                owner = holder
                assert held[holder].epoch == epoch
            else:
                with pytest.raises(LeaseHeld):
                    await leases.acquire(1, holder)
        elif operation == "renew" and holder in held:
            if owner == holder:
                held[holder] = await leases.renew(held[holder])
            else:
                with pytest.raises(LeaseLost):
                    await leases.renew(held[holder])
        elif operation == "release" and holder in held:
            await leases.release(held[holder])
            owner = None if owner == holder else owner
        assert [view.holder for view in await leases.live()] == ([owner] if owner is not None else [])


async def _remains_less_than(leases: LeaseStore, seconds: float) -> bool:
    [seen] = await leases.live()
    return seen.remaining_seconds < seconds


async def _server_time(database: Database) -> datetime:
    answer: datetime = (await database.command("hello"))["localTime"]
    return answer.replace(tzinfo=UTC)


async def _expiry(database: Database) -> datetime:
    document = await database["partitions"].find_one({"_id": 1})
    assert document is not None
    expiry: datetime = document["lease"]["expires_at"]
    return expiry


async def _none_live(leases: LeaseStore) -> bool:
    return not await leases.live()


@pytest_asyncio.fixture(loop_scope="session")
async def leadership(database: Database) -> LeadershipStore:
    return LeadershipStore(database, life_seconds=30.0, timeout_seconds=20.0)


async def test_exactly_one_of_many_masters_leads(leadership: LeadershipStore) -> None:
    holders = [Holder(f"m{number}", f"m{number}-1", "host") for number in range(10)]

    outcomes = await asyncio.gather(*(leadership.acquire(holder) for holder in holders), return_exceptions=True)

    assert sum(not isinstance(outcome, LeaseHeld) for outcome in outcomes) == 1


async def test_leadership_is_not_taken_over_by_a_process_of_the_same_worker_id(leadership: LeadershipStore) -> None:
    await leadership.acquire(A)

    with pytest.raises(LeaseHeld):
        await leadership.acquire(A_RESTARTED)


async def test_leadership_is_renewed_released_and_taken_by_another(leadership: LeadershipStore) -> None:
    first = await leadership.acquire(A)
    renewed = await leadership.renew(first)
    assert renewed.proven_until > first.proven_until

    await leadership.release(renewed)

    second = await leadership.acquire(B)
    assert second.epoch == first.epoch + 1
    with pytest.raises(LeaseLost):
        await leadership.renew(renewed)


@pytest.mark.parametrize("partitions", [0, 2])
async def test_time_of_all_workers_is_mongodbs_whatever_their_hosts_clocks_show(
    database: Database, partitions: int
) -> None:
    if not partitions:
        await database["partitions"].delete_many({})
    ahead = LeaseStore(database, life_seconds=30.0, timeout_seconds=20.0, host_clock=lambda: time.time() + 3600)
    assert ahead.now() == pytest.approx(time.time() + 3600, abs=30)

    await ahead.reachable()

    # MongoDB runs on this host.
    assert ahead.now() == pytest.approx(time.time(), abs=30)


async def test_ceded_lease_is_acquired_at_once_by_another(leases: LeaseStore, database: Database) -> None:
    lease = await leases.acquire(1, A)

    await leases.cede(lease, 3600.0)
    taken = await leases.acquire(1, B)

    assert taken.epoch == lease.epoch + 1
    document = await database["partitions"].find_one({"_id": 1})
    assert document is not None
    assert "ceded" not in document["lease"]
    assert [seen.holder for seen in await leases.live()] == [B]


async def test_ceded_lease_is_nobodys_and_looks_held_to_workers_of_older_versions(
    leases: LeaseStore, database: Database
) -> None:
    lease = await leases.acquire(1, A)

    await leases.cede(lease, 3600.0)

    assert await leases.live() == []
    assert await leases.held_by(A) == []
    assert [view.lease for view in await leases.survey() if view.segment_id == 1] == [None]
    document = await database["partitions"].find_one({"_id": 1})
    assert document is not None
    # By these an older version decides.
    assert document["lease"]["worker_id"] == "a"
    assert document["lease"]["expires_at"] > datetime.now(UTC) + timedelta(seconds=3000)


async def test_ceded_lease_is_not_renewed_by_a_late_request(leases: LeaseStore, database: Database) -> None:
    lease = await leases.acquire(1, A)
    await leases.cede(lease, 3600.0)

    with pytest.raises(StoreUnavailable):
        await leases.renew(lease)

    document = await database["partitions"].find_one({"_id": 1})
    assert document is not None
    assert document["lease"]["expires_at"] > datetime.now(UTC) + timedelta(seconds=3000)


async def test_ceded_lease_is_free_for_all_versions_once_it_is_released(leases: LeaseStore, database: Database) -> None:
    lease = await leases.acquire(1, A)
    await leases.cede(lease, 3600.0)

    await leases.release(lease)

    document = await database["partitions"].find_one({"_id": 1})
    assert document is not None
    assert document["lease"]["worker_id"] is None
    assert "ceded" not in document["lease"]
    assert (await leases.acquire(1, B)).epoch == lease.epoch + 1


async def test_lease_of_another_is_not_ceded(leases: LeaseStore) -> None:
    lease = await leases.acquire(1, A)
    await leases.release(lease)
    await leases.acquire(1, B)

    with pytest.raises(LeaseLost):
        await leases.cede(lease, 3600.0)
    with pytest.raises(LeaseHeld):
        await leases.acquire(1, A_ELSEWHERE)


async def test_expired_lease_is_not_ceded(short: LeaseStore) -> None:
    lease = await short.acquire(1, A)
    await asyncio.sleep(SHORT_SECONDS + 0.1)

    with pytest.raises(LeaseLost):
        await short.cede(lease, 3600.0)
