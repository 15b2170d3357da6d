"""Firings that their engine has no room for: they wait as long as their schedule's misfire rules let them."""

import contextlib
import time
from collections.abc import AsyncIterator
from datetime import datetime

from libs.core.room import MIB, Demand, Need
from libs.core.run_record import RunRecord
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost, looking
from tests.support.rigs.schedule_rig import Owner, ScheduleRig, schedule_rig

__all__ = ["schedule_rig"]

ONE = Need(512 * MIB)
NEVER_SOON = "0 0 1 1 *"


@contextlib.asynccontextmanager
async def crowded(rig: ScheduleRig) -> AsyncIterator[tuple[FakeHost, Owner]]:
    """A host that a run without an end fills, and its owner."""
    host = FakeHost(run_seconds=None, capacity=ONE)
    await rig.deploy("full", NEVER_SOON)
    await trigger(rig, "full")
    async with looking(host), rig.owned_by(host) as owner:
        await eventually(lambda: host.alive("full"))
        host.run_seconds = 0.02
        yield host, owner


async def trigger(rig: ScheduleRig, schedule_id: str) -> None:
    await rig.set(schedule_id, scheduler__trigger={"id": "t", "requested_at": time.time()})


async def waits(rig: ScheduleRig, schedule_id: str = "s") -> bool:
    state = await rig.state(schedule_id)
    return str(state.entity.status.get("detail") or "").startswith("waiting: needs 512 MiB, the engine has 0 MiB free")


def make_room(host: FakeHost) -> None:
    [container] = host.alive("full")
    host.end(container.container_id)


async def test_a_firing_without_room_waits_and_runs_as_soon_as_there_is_some(rig: ScheduleRig) -> None:
    async with crowded(rig) as (host, owner):
        await rig.deploy("s")
        owner.wake()
        await eventually(lambda: waits(rig))
        assert host.alive("s") == []
        lacking = (await rig.state("s")).entity.status["lacking"]
        make_room(host)
        history = await eventually(lambda: ended(rig, "finished"))

    assert Need.from_document(lacking) == Need(512 * MIB)
    assert (await rig.state("s")).entity.status.get("lacking") is None
    run = history[0]
    assert (run.cause, run.attempt) == ("schedule", 1)
    assert "waiting for room: it needs 512 MiB, the engine has 0 MiB free" in (run.message or "")


async def ended(rig: ScheduleRig, reason: str) -> list[RunRecord]:
    return [run for run in await rig.history("s") if run.reason == reason]


async def test_firings_that_come_due_meanwhile_follow_the_overlap_rule(rig: ScheduleRig) -> None:
    async with crowded(rig) as (host, owner):
        await rig.deploy("s")
        owner.wake()
        await eventually(lambda: rig.history("s"))
        assert {run.reason for run in await rig.history("s")} == {"skipped"}
        assert host.alive("s") == []


def at(run: RunRecord) -> int:
    """When the run was due, in Unix seconds."""
    assert run.scheduled_at is not None
    return int(run.scheduled_at.timestamp())


async def test_a_firing_that_may_not_be_late_is_missed_with_the_reason(rig: ScheduleRig) -> None:
    async with crowded(rig) as (host, owner):
        notify = {"url": "https://hook.example/x"}
        await rig.deploy("s", misfire="skip", misfireGrace=0.5, retries=3, notify=notify)
        owner.wake()
        [*_, run] = await eventually(lambda: ended(rig, "missed"))
        queued = await eventually(lambda: rig.database["notifications"].find_one({"key": f"{at(run)}"}))

        assert host.alive("s") == []
    assert "no room within config.misfireGrace, 0.5 s: needs 512 MiB, the engine has 0 MiB free" in str(run.message)
    assert run.attempt == 1
    assert queued is not None
    assert (queued["event"], queued["body"]["detail"]) == ("schedule.missed", run.message)
    assert datetime.fromisoformat(queued["body"]["scheduled_at"]).timestamp() == at(run)


async def test_triggered_run_waits_for_room_with_any_misfire_rule(rig: ScheduleRig) -> None:
    async with crowded(rig) as (host, owner):
        await rig.deploy("s", NEVER_SOON, misfire="skip", misfireGrace=0)
        await trigger(rig, "s")
        owner.wake()
        await eventually(lambda: waits(rig))
        make_room(host)
        await eventually(lambda: ended(rig, "finished"))


async def test_a_schedule_that_is_paused_while_it_waits_does_not_run(rig: ScheduleRig) -> None:
    async with crowded(rig) as (host, owner):
        await rig.deploy("s")
        owner.wake()
        await eventually(lambda: waits(rig))
        await rig.deploy("s", enabled=False)
        owner.wake()
        await eventually(lambda: ended(rig, "withdrawn"))
        assert host.room.waiting == 0
        assert host.alive("s") == []


async def test_a_waiting_firing_is_begun_by_the_next_owner_on_another_host(rig: ScheduleRig) -> None:
    async with crowded(rig) as (_, owner):
        await rig.deploy("s", NEVER_SOON)
        await trigger(rig, "s")
        owner.wake()
        await eventually(lambda: waits(rig))
        before = (await rig.state("s")).firing
        assert before is not None

    other = FakeHost("other")
    async with rig.owned_by(other):
        [run] = await eventually(lambda: ended(rig, "finished"))
        await eventually(lambda: is_closed(rig))  # after its record

    assert run.run_id == before.run_id


async def test_a_firing_that_was_begun_after_its_wait_is_not_begun_again_elsewhere(rig: ScheduleRig) -> None:
    async with crowded(rig) as (host, owner):
        await rig.deploy("s", NEVER_SOON)
        await trigger(rig, "s")
        owner.wake()
        await eventually(lambda: waits(rig))
        host.hang_after, host.run_seconds = True, None
        make_room(host)
        await eventually(lambda: host.alive("s"))

    other = FakeHost("other")
    async with rig.owned_by(other):
        await eventually(lambda: ended(rig, "missing"))
    assert other.starts == []


async def test_segment_reports_what_its_firings_need_and_lack(rig: ScheduleRig) -> None:
    async with crowded(rig) as (_, owner):
        assert owner.scheduler.demand() == Demand(ONE, None)
        await rig.deploy("s", resources={"memoryMb": 1024})
        owner.wake()
        expected = Demand(Need(1536 * MIB), Need(1024 * MIB))
        await eventually(lambda: owner.scheduler.demand() == expected)


async def is_closed(rig: ScheduleRig) -> bool:
    return (await rig.state("s")).firing is None
