"""Firings above the quota of their owner: they wait as long as their schedule's misfire rules let them."""

import time

import pytest

from libs.core.room import Demand
from libs.core.run_record import RunRecord
from libs.core.store.quotas import Quota
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.rigs.schedule_rig import Owner, ScheduleRig, schedule_rig

__all__ = ["schedule_rig"]

NEVER_SOON = "0 0 1 1 *"
REASON = "quota of owner '': 1 of 1 running (QUOTA_RUNNING)"


async def trigger(rig: ScheduleRig, schedule_id: str) -> None:
    await rig.set(schedule_id, scheduler__trigger={"id": "t", "requested_at": time.time()})


async def fill(rig: ScheduleRig, host: FakeHost, owner: Owner) -> None:
    """Let a run without an end take the only place."""
    await rig.deploy("full", NEVER_SOON)
    await trigger(rig, "full")
    owner.wake()
    await eventually(lambda: host.alive("full"))
    host.run_seconds = 0.02


async def detail(rig: ScheduleRig, schedule_id: str = "s") -> str:
    return str((await rig.state(schedule_id)).entity.status.get("detail") or "")


async def ended(rig: ScheduleRig, reason: str) -> list[RunRecord]:
    return [run for run in await rig.history("s") if run.reason == reason]


async def says(rig: ScheduleRig, text: str) -> bool:
    return await detail(rig) == text


async def test_firing_above_the_quota_waits_says_why_and_runs_once(rig: ScheduleRig) -> None:
    rig.quota = Quota(count=1)
    host = FakeHost(run_seconds=None)
    async with rig.owned_by(host) as owner:
        await fill(rig, host, owner)
        await rig.deploy("s", NEVER_SOON)
        await trigger(rig, "s")
        owner.wake()
        await eventually(lambda: says(rig, f"waiting: {REASON}"))
        assert host.alive("s") == []
        assert (await rig.state("s")).entity.status.get("lacking") is None
        assert owner.scheduler.demand() == Demand(owner.scheduler.demand().need)
        make_room(host)
        [run] = await eventually(lambda: ended(rig, "finished"))

    assert REASON in (run.message or "")
    assert sum(start.entity_id == "s" for start in host.starts) == 1


def make_room(host: FakeHost) -> None:
    [full] = host.alive("full")
    host.end(full.container_id)


async def test_firing_that_waits_for_the_quota_is_begun_by_the_next_owner_on_another_host(rig: ScheduleRig) -> None:
    rig.quota = Quota(count=1)
    host, other = FakeHost(run_seconds=None), FakeHost("other")
    async with rig.owned_by(host) as owner:
        await fill(rig, host, owner)
        await rig.deploy("s", NEVER_SOON)
        await trigger(rig, "s")
        owner.wake()
        await eventually(lambda: says(rig, f"waiting: {REASON}"))
        before = (await rig.state("s")).firing
        assert before is not None
    async with rig.owned_by(other):
        # The run on the first host is lost with it, and its place is free.
        [run] = await eventually(lambda: ended(rig, "finished"))

    assert run.run_id == before.run_id
    assert [start.entity_id for start in other.starts] == ["s"]


@pytest.mark.parametrize("misfire", ["skip", "run_once"])
async def test_firings_above_the_quota_follow_the_misfire_and_overlap_rules(rig: ScheduleRig, misfire: str) -> None:
    rig.quota = Quota(count=1)
    host = FakeHost(run_seconds=None)
    async with rig.owned_by(host) as owner:
        await fill(rig, host, owner)
        await rig.deploy("s", misfire=misfire, misfireGrace=0.5)
        owner.wake()
        # On a busy machine a firing may be too late before it is refused, or due before an earlier one was refused.
        [*_, run] = await eventually(lambda: refused(rig, "missed" if misfire == "skip" else "skipped"))

        assert host.alive("s") == []
    assert run.attempt == 1


async def refused(rig: ScheduleRig, reason: str) -> list[RunRecord]:
    return [run for run in await ended(rig, reason) if REASON in (run.message or "")]


async def test_place_of_a_run_goes_to_the_next_when_it_has_ended(rig: ScheduleRig) -> None:
    rig.quota = Quota(count=1)
    host = FakeHost(run_seconds=0.02)
    for number in range(2):
        await rig.deploy(f"s{number}", NEVER_SOON)
        await trigger(rig, f"s{number}")
    async with rig.owned_by(host):
        await eventually(lambda: len(host.starts) == 2, within_seconds=60)
        await eventually(lambda: no_holders(rig), within_seconds=60)


async def no_holders(rig: ScheduleRig) -> bool:
    document = await rig.collection.database["quotas"].find_one({"_id": ""}) or {}
    return document.get("holders") == []
