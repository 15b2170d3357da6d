from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from libs.core.leases.lease import Holder
from libs.core.run_record import RunRecord
from libs.core.store.client import Database
from libs.core.store.leases import LeaseStore
from libs.core.store.runs import LiveRuns, RunFilter, RunStore
from tests.support.faults.interruptions import OvertakenUpserts

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def run(run_id: str, *, entity_id: str = "b1", minutes: int = 0, segment_id: int = 1, epoch: int = 1) -> RunRecord:
    return RunRecord(
        run_id=run_id,
        entity_id=entity_id,
        segment_id=segment_id,
        worker_id="w1",
        host="h1",
        epoch=epoch,
        started_at=NOON + timedelta(minutes=minutes),
        code_digest="etag",
    )


def ended(record: RunRecord, reason: str = "finished", exit_code: int = 0) -> RunRecord:
    end = record.started_at + timedelta(seconds=90)
    return replace(record, ended_at=end, reason=reason, exit_code=exit_code, last_lines=("a", "b"), oom_killed=False)


@pytest_asyncio.fixture(loop_scope="session")
async def runs(database: Database) -> RunStore:
    store = RunStore(database)
    await store.ensure_indexes()
    return store


async def close_open(runs: RunStore, **which: object) -> int:
    end = {"reason": "missing", "message": "its worker died", "ended_at": NOON + timedelta(hours=1)}
    return await runs.close_open(**end, **which)  # type: ignore[arg-type]


async def test_a_run_is_recorded_from_its_start_to_its_end(runs: RunStore) -> None:
    await runs.start(run("r1"))
    while_it_runs = await runs.get("r1")
    kept = await runs.finish(ended(run("r1")))

    assert while_it_runs == run("r1")
    assert kept
    assert await runs.get("r1") == ended(run("r1"))
    assert ended(run("r1")).duration_seconds == 90


async def test_starting_twice_changes_nothing(runs: RunStore) -> None:
    await runs.start(run("r1"))
    await runs.start(run("r1", entity_id="other"))
    await runs.finish(ended(run("r1")))
    await runs.start(run("r1"))

    assert await runs.get("r1") == ended(run("r1"))


async def test_an_end_is_recorded_though_the_start_was_not(runs: RunStore) -> None:
    assert await runs.finish(ended(run("r1")))
    assert await runs.get("r1") == ended(run("r1"))


async def test_the_first_end_that_was_seen_stays(runs: RunStore) -> None:
    await runs.start(run("r1"))
    await runs.finish(ended(run("r1"), "oom", 137))

    assert not await runs.finish(ended(run("r1"), "finished", 0))
    assert await runs.get("r1") == ended(run("r1"), "oom", 137)


async def test_an_end_that_was_seen_replaces_one_that_was_presumed(runs: RunStore) -> None:
    await runs.start(run("r1"))
    await close_open(runs, segment_id=1)
    presumed = await runs.get("r1")
    await runs.finish(ended(run("r1"), "error", 1))

    assert presumed is not None
    assert (presumed.presumed, presumed.reason, presumed.message) == (True, "missing", "its worker died")
    assert await runs.get("r1") == ended(run("r1"), "error", 1)


async def test_an_end_that_was_seen_is_no_presumption_whatever_the_record_it_is_added_to(runs: RunStore) -> None:
    await runs.start(run("r1"))
    await close_open(runs, segment_id=1)
    presumed = await runs.get("r1")
    assert presumed is not None
    await runs.finish(ended(presumed, "error", 1))

    assert not await runs.finish(ended(run("r1"), "finished", 0))
    kept = await runs.get("r1")
    assert kept is not None
    assert (kept.reason, kept.presumed) == ("error", False)


async def test_an_end_is_not_lost_to_a_start_that_is_recorded_at_the_same_moment(database: Database) -> None:
    overtaken: Any = OvertakenUpserts(database, lambda: RunStore(database).start(run("r1")))
    assert await RunStore(overtaken).finish(ended(run("r1"), "oom", 137))

    assert await RunStore(database).get("r1") == ended(run("r1"), "oom", 137)


async def test_a_record_without_an_end_is_no_end(runs: RunStore) -> None:
    with pytest.raises(ValueError, match="r1"):
        await runs.finish(run("r1"))


async def test_a_new_owner_closes_what_its_predecessors_left_open_and_keeps_what_it_found_running(
    runs: RunStore,
) -> None:
    await runs.start(run("found", epoch=1))
    await runs.start(run("gone", epoch=1))
    await runs.start(run("mine", epoch=2))
    await runs.start(run("elsewhere", epoch=1, segment_id=2))
    await runs.finish(ended(run("over", epoch=1)))

    assert await close_open(runs, segment_id=1, before_epoch=2, keep=["found"]) == 1
    assert {record.run_id for record in await runs.list(RunFilter(open=True))} == {"found", "mine", "elsewhere"}


async def test_an_adopted_run_belongs_to_its_new_worker(runs: RunStore) -> None:
    await runs.start(run("r1"))

    assert await runs.adopt("r1", worker_id="w2", epoch=2)
    assert await runs.get("r1") == replace(run("r1"), worker_id="w2", epoch=2)
    assert await close_open(runs, segment_id=1, before_epoch=2) == 0
    assert not await runs.adopt("unknown", worker_id="w2", epoch=2)


async def test_adopting_a_run_takes_a_presumed_end_back_and_leaves_one_that_was_seen(runs: RunStore) -> None:
    for run_id in ("alive", "over"):
        await runs.start(run(run_id))
    await close_open(runs, segment_id=1)
    await runs.finish(ended(run("over")))

    assert await runs.adopt("alive", worker_id="w1", epoch=1)
    assert not await runs.adopt("over", worker_id="w1", epoch=1)
    assert await runs.list(RunFilter(open=True)) == [run("alive")]


async def test_closing_every_open_run_is_refused(runs: RunStore) -> None:
    with pytest.raises(ValueError, match="all open runs"):
        await close_open(runs)


async def test_runs_are_listed_newest_first_and_filtered(runs: RunStore) -> None:
    for number in range(4):
        await runs.start(run(f"a{number}", entity_id="a", minutes=number))
    await runs.finish(ended(run("b0", entity_id="b", minutes=9), "oom", 137))

    async def listed(**wanted: object) -> list[str]:
        return [record.run_id for record in await runs.list(RunFilter(**wanted), limit=3)]  # type: ignore[arg-type]

    assert await listed() == ["b0", "a3", "a2"]
    assert await listed(entity_id="a", started_before=NOON + timedelta(minutes=2)) == ["a1", "a0"]
    assert await listed(started_after=NOON + timedelta(minutes=2)) == ["b0", "a3"]
    assert await listed(reasons=["oom", "error"]) == ["b0"]
    assert await listed(open=False) == ["b0"]
    assert await listed(worker_id="other") == []


async def test_output_is_bounded_and_may_hold_anything(runs: RunStore) -> None:
    lines = (*(f"line {number}" for number in range(100)), "x" * 5000, "half \ud800 a character", "nul \0")
    await runs.finish(replace(ended(run("r1")), last_lines=lines))
    record = await runs.get("r1")

    assert record is not None
    assert len(record.last_lines) == 50
    assert record.last_lines[-3:] == ("x" * 1000, "half ? a character", "nul \0")


async def test_a_record_of_another_version_is_read_as_far_as_it_is_known(runs: RunStore, database: Database) -> None:
    await runs.start(run("r1"))
    await database["runs"].update_one({"_id": "r1"}, {"$set": {"invented_later": 1}, "$unset": {"revision": ""}})

    assert await runs.get("r1") == run("r1")


async def test_former_indexes_are_dropped(runs: RunStore, database: Database) -> None:
    await database["runs"].create_index([("started_at", -1)])
    await database["runs"].create_index([("reason", 1), ("started_at", -1)])

    await runs.ensure_indexes()
    await runs.ensure_indexes()

    assert not {"started_at_-1", "reason_1_started_at_-1"} & set(await database["runs"].index_information())


async def test_the_time_of_keeping_follows_the_setting(runs: RunStore, database: Database) -> None:
    await RunStore(database, keep_days=7).ensure_indexes()
    await RunStore(database, keep_days=7).ensure_indexes()
    indexes = await database["runs"].index_information()

    assert indexes["ended_at_ttl"]["expireAfterSeconds"] == 7 * 86_400


async def test_looking_for_an_entitys_runs_reads_no_others(runs: RunStore, database: Database) -> None:
    await runs.start(run("r1"))
    cursor = database["runs"].find({"entity_id": "b1"}).sort("started_at", -1)
    plan = await cursor.explain()

    assert "entity_id_1_started_at_-1" in str(plan["queryPlanner"]["winningPlan"])


async def test_ends_of_late_are_counted_by_reason(runs: RunStore) -> None:
    for number, reason in enumerate(("finished", "finished", "exception", "stopped")):
        await runs.finish(ended(run(f"r{number}"), reason))
    await runs.start(run("open"))
    end = NOON + timedelta(seconds=90)

    assert await runs.reasons(end) == {"finished": 2, "exception": 1, "stopped": 1}
    assert await runs.reasons(end + timedelta(seconds=1)) == {}


# --- runs whose containers stop after their segment was given away


async def test_promise_covers_open_runs_of_the_segment_up_to_the_owners_epoch(runs: RunStore) -> None:
    for record in (
        run("earlier", epoch=1),
        run("own", epoch=2),
        run("later", epoch=3),
        run("elsewhere", segment_id=2, epoch=1),
    ):
        await runs.start(record)
    await runs.finish(ended(run("over", epoch=2)))
    begun = datetime.now(UTC)

    await runs.promise_ends(1, epoch=2, seconds=31.5)

    promised = {record.run_id: record for record in await runs.list(RunFilter(is_stopping=True))}
    assert promised.keys() == {"earlier", "own"}
    deadline = promised["own"].stop_deadline
    assert deadline is not None
    # MongoDB runs on this host, and keeps milliseconds.
    assert timedelta(seconds=31.49) <= deadline - begun < timedelta(seconds=60)
    assert promised["own"].stop_seconds == 31.5


async def test_promise_of_an_earlier_owner_stays_and_ones_own_is_renewed(runs: RunStore) -> None:
    await runs.start(run("earlier", epoch=1))
    await runs.promise_ends(1, epoch=1, seconds=600.0)
    await runs.start(run("own", epoch=2))

    await runs.promise_ends(1, epoch=2, seconds=5.0)
    await runs.promise_ends(1, epoch=2, seconds=31.5)

    promised = {record.run_id: record.stop_seconds for record in await runs.list(RunFilter(is_stopping=True))}
    assert promised == {"earlier": 600.0, "own": 31.5}


async def test_promised_run_is_closed_only_by_who_knows_that_it_is_over(runs: RunStore) -> None:
    await runs.start(run("stopping"))
    await runs.promise_ends(1, epoch=1, seconds=600.0)
    await runs.start(run("plain"))

    assert await close_open(runs, segment_id=1) == 1
    assert await close_open(runs, entity_id="b1") == 0
    assert await close_open(runs, entity_id="b1", are_over=True) == 1


async def test_observed_end_of_a_promised_run_is_recorded(runs: RunStore) -> None:
    await runs.start(run("stopping"))
    await runs.promise_ends(1, epoch=1, seconds=600.0)

    assert await runs.finish(ended(run("stopping")))

    assert await runs.list(RunFilter(open=True)) == []


async def test_promised_runs_may_live_in_any_segment_until_their_end_is_recorded(
    database: Database, runs: RunStore
) -> None:
    leases = LeaseStore(database, life_seconds=30.0, timeout_seconds=20.0)
    live = LiveRuns(runs, leases)
    await runs.start(run("r1"))
    assert await live.of(["b1"], outside=1) == {}
    assert await live.stopping(1) == []

    await runs.promise_ends(1, epoch=1, seconds=600.0)
    for outside in (1, 2, None):
        assert await live.of(["b1"], outside=outside) == {"b1": "w1"}
    assert await live.of(["b2"], outside=1) == {}
    assert (await live.stopping(1), await live.stopping(2)) == (["r1"], [])

    await runs.finish(ended(run("r1")))
    assert await live.of(["b1"], outside=1) == {}
    assert await live.stopping(1) == []


async def test_run_of_the_segment_itself_does_not_count_under_its_own_lease(database: Database, runs: RunStore) -> None:
    leases = LeaseStore(database, life_seconds=30.0, timeout_seconds=20.0)
    await database["partitions"].insert_one({"_id": 1, "bot_count": 1})
    lease = await leases.acquire(1, Holder("w1", "i", "h1"))
    await runs.start(run("r1", epoch=lease.epoch))

    live = LiveRuns(runs, leases)
    assert await live.of(["b1"]) == {"b1": "w1"}
    assert await live.of(["b1"], outside=1) == {}
