"""One firing is one run: with workers that die at any moment, leases that move, and clocks that differ."""

import asyncio
import gc
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from libs.docker_runner.containers.container import ManagedContainer
from services.bot_scheduler.closing import close_all
from services.bot_scheduler.decide import Claim
from services.bot_scheduler.ending import LOST
from services.bot_scheduler.state import FIRED_AT, NEXT
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.faults.deaths import Death, Mortal
from tests.support.rigs.schedule_rig import ScheduleRig, schedule_rig

__all__ = ["schedule_rig"]

NEVER_SOON = "0 0 1 1 *"


async def claimed(rig: ScheduleRig, **config: Any) -> None:
    await rig.deploy(schedule=NEVER_SOON, **config)
    await rig.set("s", next_execution_time=int(time.time()))


@dataclass
class Late(FakeHost):
    """A host that does not list its containers yet, as often as that is *hidden*."""

    hidden: int = 0

    async def list(self) -> list[ManagedContainer]:
        if self.hidden:
            self.hidden -= 1
            return []
        return await super().list()


async def test_a_run_is_seen_through_by_the_next_worker_on_its_host(rig: ScheduleRig) -> None:
    await claimed(rig)
    host = FakeHost(run_seconds=None)
    async with rig.owned_by(host):
        await eventually(lambda: is_started(rig))

    async with rig.owned_by(host):
        host.end(f"c-{host.starts[0].run_id}")
        [run] = await eventually(rig.history)
        await eventually(lambda: not host.containers)

    assert (run.reason, run.run_id, len(host.starts)) == ("finished", host.starts[0].run_id, 1)


async def test_a_start_whose_answer_was_never_seen_is_one_run_all_the_same(rig: ScheduleRig) -> None:
    await claimed(rig)
    host = FakeHost(run_seconds=None, hang_after=True)
    async with rig.owned_by(host):
        await eventually(lambda: host.containers)

    host.hang_after = False
    async with rig.owned_by(host):
        host.end(f"c-{host.starts[0].run_id}")
        await eventually(rig.history)

    assert len(host.starts) == 1


async def test_start_that_takes_effect_during_the_takeover_is_one_run_all_the_same(rig: ScheduleRig) -> None:
    await claimed(rig)
    host = Late(run_seconds=0.0, hang_after=True)
    async with rig.owned_by(host):
        await eventually(lambda: host.containers)

    host.hang_after, host.hidden = False, 1
    async with rig.owned_by(host):
        [run] = await eventually(rig.history)

    assert (run.reason, len(host.starts), host.hidden) == ("finished", 1, 0)


async def test_a_firing_whose_worker_died_before_the_start_is_run_on_the_same_host(rig: ScheduleRig) -> None:
    await claimed(rig)
    host = FakeHost(hang_before=True)
    async with rig.owned_by(host):
        await eventually(lambda: host.starts)

    host.hang_before = False
    async with rig.owned_by(host):
        [run] = await eventually(rig.history)

    assert run.reason == "finished"
    assert {start.run_id for start in host.starts} == {run.run_id}


async def test_on_another_host_a_run_that_may_have_been_is_not_repeated(rig: ScheduleRig) -> None:
    await claimed(rig)
    async with rig.owned_by(FakeHost("first", run_seconds=None)):
        await eventually(lambda: is_started(rig))

    second = FakeHost("second")
    async with rig.owned_by(second):
        [run] = await eventually(rig.history)
        await eventually(lambda: at_rest(rig))

    assert (run.reason, second.starts) == (LOST, [])


async def test_lost_run_is_repeated_when_config_has_retries(rig: ScheduleRig) -> None:
    await claimed(rig, retries=1, retryDelay=0.05)
    async with rig.owned_by(FakeHost("first", run_seconds=None)):
        await eventually(lambda: is_started(rig))

    second = FakeHost("second")
    async with rig.owned_by(second):
        history = await eventually(lambda: two(rig))

    assert [(run.attempt, run.reason) for run in reversed(history)] == [(1, LOST), (2, "finished")]


async def test_a_retry_that_is_waited_for_outlives_its_worker(rig: ScheduleRig) -> None:
    await claimed(rig, retries=1, retryDelay=3600)
    async with rig.owned_by(FakeHost("first", exit_codes=[1])):
        await eventually(lambda: attempt(rig, 2))

    second = FakeHost("second")
    async with rig.owned_by(second) as owner:
        await eventually(lambda: owner.scheduler._runs)
        state = await rig.state()

    assert state.firing is not None
    assert (state.firing.attempt, state.firing.host) == (2, "second")


async def test_recorded_end_counts_though_the_document_was_not_written(rig: ScheduleRig) -> None:
    await claimed(rig, retries=3)
    host = FakeHost(run_seconds=None)
    async with rig.owned_by(host):
        await eventually(lambda: is_started(rig))
    record = await rig.runs.get(host.starts[0].run_id)
    assert record is not None
    finished = {**record.__dict__, "ended_at": record.started_at, "reason": "finished"}
    await rig.runs.finish(type(record)(**finished))
    host.containers.clear()

    async with rig.owned_by(host):
        await eventually(lambda: at_rest(rig))

    assert len(host.starts) == 1


@pytest.mark.parametrize(("retries", "following"), [(0, None), (2, 2)])
async def test_a_run_that_ends_with_its_worker_is_written_down_and_tried_again_only_by_its_config(
    rig: ScheduleRig, retries: int, following: int | None
) -> None:
    await claimed(rig, retries=retries)
    host = FakeHost(run_seconds=None)
    async with rig.owned_by(host) as owner:
        await eventually(lambda: is_started(rig))

    [container] = await host.list()
    ended = [await host.stop(container)]
    await close_all(owner.kit, ended)

    assert [run.reason for run in await rig.history()] == ["stopped"]
    firing = (await rig.state()).firing
    assert (firing.attempt if firing is not None else None) == following


async def test_a_run_is_replaced_also_by_the_next_worker_when_the_first_died_right_after_its_claim(
    rig: ScheduleRig,
) -> None:
    await claimed(rig, overlap="replace")
    host = FakeHost(run_seconds=None)
    async with rig.owned_by(host):
        await eventually(lambda: is_started(rig))
    await rig.set("s", scheduler__queued=[int(time.time()) + 1])

    async with rig.owned_by(host):
        [run] = await eventually(rig.history)
        await eventually(lambda: len(host.starts) == 2)

    assert (run.reason, run.run_id) == ("replaced", host.starts[0].run_id)


async def test_container_without_a_firing_is_ended(rig: ScheduleRig) -> None:
    await claimed(rig)
    host = FakeHost(run_seconds=None)
    async with rig.owned_by(host):
        await eventually(lambda: is_started(rig))
    await rig.entities.delete("s")

    async with rig.owned_by(host):
        await eventually(lambda: not host.containers)

    assert [(run.reason, run.exit_code) for run in await rig.history()] == [("deleted", 143)]


@pytest.mark.parametrize(("overlap", "dropped"), [("skip", ["skipped"]), ("queue", [])])
async def test_one_that_is_created_again_elsewhere_is_busy_until_its_old_run_has_ended(
    rig: ScheduleRig, overlap: str, dropped: list[str]
) -> None:
    old = await rig.still_running_in(0)
    await claimed(rig, overlap=overlap)
    host = FakeHost()

    async with rig.owned_by(host):
        await eventually(lambda: has_looked_at_the_time(rig))
        begun_before = list(host.starts)
        await rig.runs.finish(replace(old, ended_at=datetime.now(UTC), reason="deleted"))
        # The second of the one before counts as fired.
        await rig.set("s", next_execution_time=int(time.time()) + 1)
        await eventually(lambda: host.starts)
        await eventually(lambda: at_rest(rig))

    reasons = Counter(run.reason for run in await rig.history())
    assert begun_before == []
    assert reasons["deleted"] == 1
    assert [reason for reason in reasons if reason == "skipped"] == dropped
    assert reasons["finished"] >= 1


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 5))
async def test_missed_firing_is_recorded_and_notified_once_whenever_its_worker_dies(
    rig: ScheduleRig, at: int, before: bool
) -> None:
    death = Death(at, before=before)
    entities, runs, notifications = rig.entities, rig.runs, rig.notifications
    mortal_entities: Any = Mortal(entities, death, "compare_and_set_many", "compare_and_set")
    mortal_runs: Any = Mortal(runs, death, "finish")
    mortal_notifications: Any = Mortal(notifications, death, "put")
    await rig.deploy(schedule=NEVER_SOON, misfire="skip", notify={"url": "https://hook.example/x"})
    due = int(time.time()) - 3600
    await rig.set("s", next_execution_time=due)
    rig.entities, rig.runs, rig.notifications = mortal_entities, mortal_runs, mortal_notifications
    async with rig.owned_by(FakeHost()):
        await eventually(death.dead.is_set)

    rig.entities, rig.runs, rig.notifications = entities, runs, notifications
    async with rig.owned_by(FakeHost()):
        await eventually(lambda: is_recorded(rig))

    [run] = await rig.history()
    assert (run.reason, run.scheduled_at) == ("missed", datetime.fromtimestamp(due, UTC))
    assert await rig.database["notifications"].count_documents({}) == 1


async def is_recorded(rig: ScheduleRig) -> bool:
    return bool(await rig.history()) and not (await rig.state()).dropped


async def test_run_with_an_expired_lease_delays_no_other_run(rig: ScheduleRig) -> None:
    await rig.still_running_in(0, owned=False)
    await claimed(rig)
    host = FakeHost()

    async with rig.owned_by(host):
        await eventually(lambda: host.starts)


async def test_claim_that_arrives_after_the_next_owner_has_read_the_schedule_takes_no_firing_from_it(
    rig: ScheduleRig,
) -> None:
    await rig.deploy(schedule=NEVER_SOON)
    at = int(time.time()) + 2
    await rig.set("s", next_execution_time=at)
    frozen, host = rig.owner(FakeHost("old-host"), worker="old"), FakeHost("host")
    late = frozen.kit.claims.entry(await rig.state(), Claim({NEXT: at + 1000, FIRED_AT: at}, fire=at))
    async with rig.owned_by(host) as owner:
        await eventually(lambda: owner.scheduler.known == 1)

        assert not await frozen.kit.claims.write([late])
        await eventually(lambda: host.starts)

    assert len(host.starts) == 1


async def test_claim_is_written_whatever_the_epochs_of_another_segment_were(rig: ScheduleRig) -> None:
    await rig.deploy(schedule=NEVER_SOON)
    at = int(time.time())
    await rig.set("s", next_execution_time=at, scheduler__owner_segment=77, scheduler__owner_epoch=1000)
    claims = rig.owner(FakeHost("host")).kit.claims

    assert await claims.write([claims.entry(await rig.state(), Claim({NEXT: at + 1000, FIRED_AT: at}, fire=at))])


async def test_two_that_both_take_themselves_for_the_owner_fire_once(rig: ScheduleRig) -> None:
    await rig.deploy()
    one, other = FakeHost("one"), FakeHost("other")
    # Each on a host of its own, and one clock nearly a second behind.
    async with rig.owned_by(one), rig.owned_by(other, clock=lambda: time.time() - 0.9):
        await eventually(lambda: len(one.starts) + len(other.starts) >= 4)
        await asyncio.sleep(0.3)
        history = await rig.history()

    assert once_each(history)


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_dies_whenever_each_firing_is_one_run(rig: ScheduleRig, seed: int) -> None:
    """Workers on one host are killed at random moments, with clocks that differ by up to a second."""
    rng = random.Random(seed)
    for number in range(5):
        await rig.deploy(f"s{number}", overlap=rng.choice(["skip", "queue"]))
    host = FakeHost(run_seconds=0.05)
    begun = time.time()
    async with asyncio.timeout(120):
        # On a busy machine most of them die before they have done anything.
        while time.time() < begun + 5 or min(fired(host)) < 4:
            async with rig.owned_by(host, clock=skewed(rng.uniform(-0.5, 0.5))):
                await asyncio.sleep(rng.uniform(0.01, 0.45))
    ended = time.time()

    async with rig.owned_by(host):
        await eventually(lambda: all_at_rest_past(rig, ended + 1))

    for number in range(5):
        history = await rig.history(f"s{number}")
        runs = [run for run in history if run.reason == "finished"]
        assert once_each(runs)
        asked = Counter(start.run_id for start in host.starts if start.entity_id == f"s{number}")
        assert set(asked) == {run.run_id for run in runs}
        assert {run.reason for run in history} <= {"finished", "skipped"}
    gc.collect()


def fired(host: FakeHost) -> list[int]:
    """How many runs each of the schedules has had."""
    return [len({start.run_id for start in host.starts if start.entity_id == f"s{number}"}) for number in range(5)]


def skewed(seconds: float) -> Callable[[], float]:
    return lambda: time.time() + seconds


def once_each(history: list) -> bool:  # type: ignore[type-arg]
    times = [run.scheduled_at for run in history]
    return len(set(times)) == len(times)


async def is_started(rig: ScheduleRig) -> bool:
    firing = (await rig.state()).firing
    return firing is not None and firing.started and await rig.runs.get(firing.run_id) is not None


async def attempt(rig: ScheduleRig, number: int) -> bool:
    firing = (await rig.state()).firing
    return firing is not None and firing.attempt == number


async def has_looked_at_the_time(rig: ScheduleRig) -> bool:
    return (await rig.state()).fired_at > 0


async def at_rest(rig: ScheduleRig, schedule_id: str = "s") -> bool:
    state = await rig.state(schedule_id)
    return state.firing is None


async def all_at_rest_past(rig: ScheduleRig, moment: float) -> bool:
    states = [await rig.state(f"s{number}") for number in range(5)]
    return all(state.firing is None and state.fired_at >= moment for state in states)


async def two(rig: ScheduleRig) -> list:  # type: ignore[type-arg]
    history = await rig.history()
    return history if len(history) >= 2 else []
