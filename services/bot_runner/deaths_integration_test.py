"""A bot's end is known and counted once, and it never runs twice: with workers that die at any step, and two hosts."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from libs.core.run_record import RunRecord
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.errors import EngineUnavailable
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.faults.deaths import Death
from tests.support.rigs.bot_rig import BotRig, bot_rig

__all__ = ["bot_rig"]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_a_death_is_recorded_and_counted_once_whenever_the_worker_dies(rig: BotRig, before: bool) -> None:
    at = 1
    while await one_death_is_known(rig, Death(at, before=before), f"b{at}"):
        at += 1
    assert at > 8


async def one_death_is_known(rig: BotRig, death: Death, bot_id: str) -> bool:
    """Check what is known of a bot that ended once. False when there was no step left to die at."""
    await rig.deploy(bot_id)
    host = rig.host(run_seconds=0.02, exit_codes=[7], last_stays=True)

    async with rig.owned_by(host, death=death):
        await eventually(lambda: dead_or_running_again(rig, host, death, bot_id))
    async with rig.owned_by(host):
        await eventually(lambda: is_running_again(rig, host, bot_id))

    ends = [run for run in await rig.history(bot_id) if run.exit_code is not None]
    assert [(run.exit_code, run.reason) for run in ends] == [(7, "error")]
    assert ends[0].config_digest
    assert (await rig.status(bot_id))["restarts"] == 1
    assert rig.doubles == []
    await rig.entities.delete(bot_id)
    return death.reached


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_a_bot_that_is_stopped_leaves_its_end_whenever_the_worker_dies(rig: BotRig, before: bool) -> None:
    at = 1
    while await one_stop_is_known(rig, Death(at, before=before), f"b{at}"):
        at += 1
    assert at > 3


async def one_stop_is_known(rig: BotRig, death: Death, bot_id: str) -> bool:
    await rig.deploy(bot_id)
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: is_running(rig, bot_id))
    await rig.entities.delete(bot_id)

    async with rig.owned_by(host, death=death):
        await eventually(lambda: death.dead.is_set() or not host.containers)
    async with rig.owned_by(host):
        await eventually(lambda: not host.containers)

    [run] = await rig.history(bot_id)
    assert (run.exit_code, run.presumed) == (143, False)
    assert run.reason in ("deleted", "stopped")
    assert await rig.history(bot_id, ended=False) == []
    return death.reached


async def test_a_bot_that_is_created_again_elsewhere_waits_for_its_old_container(rig: BotRig) -> None:
    await rig.deploy()
    one, other = rig.host("one"), rig.host("other")
    async with rig.owned_by(one, scan_seconds=3600) as first:
        # Seen in the round after the start; then it looks no more.
        await eventually(lambda: rig.reconcilers[1].running)
        await rig.create_again_in(2)

        async with rig.owned_by(other, segment=2):
            await has_looked(rig)
            assert other.starts == []

            first.wake.set()
            await eventually(lambda: other.alive("b"))

    assert rig.doubles == []
    assert [run.reason for run in await rig.history()] == ["deleted"]


async def test_recreated_bot_waits_while_a_new_process_of_its_old_owner_takes_over_the_container(rig: BotRig) -> None:
    await rig.deploy()
    one, other = rig.host("one"), rig.host("other")
    async with rig.owned_by(one):
        await eventually(lambda: is_running(rig))
    await rig.create_again_in(2)
    # It keeps what runs on its host alive from now on, and has not looked yet.
    await rig.acquire(one, 1)

    async with rig.owned_by(other, segment=2):
        await has_looked(rig)
        assert other.starts == []

        async with rig.owned_by(one, segment=1):
            await eventually(lambda: other.alive("b"))

    assert rig.doubles == []


async def test_it_begins_elsewhere_once_the_old_lease_is_over(rig: BotRig) -> None:
    await rig.deploy()
    one, other = rig.host("one"), rig.host("other")
    async with rig.owned_by(one) as first:
        await eventually(lambda: is_running(rig))
        lease = first.lease
    await rig.create_again_in(2)
    one.die()
    await rig.leases.release(lease)

    async with rig.owned_by(other, segment=2):
        await eventually(lambda: other.alive("b"))

    assert [(run.reason, run.presumed) for run in await rig.history()] == [("missing", True)]


async def test_removed_container_delays_no_other_bot(rig: BotRig) -> None:
    await rig.deploy()
    one, other = rig.host("one"), rig.host("other")
    async with rig.owned_by(one):
        await eventually(lambda: is_running(rig))
    await rig.create_again_in(2)
    one.containers.clear()

    async with rig.owned_by(one, segment=1), rig.owned_by(other, segment=2):
        await eventually(lambda: other.alive("b"))

    assert [run.reason for run in await rig.history()] == ["missing"]


@pytest.mark.parametrize("change", [{"$unset": {"status": ""}}, {"$set": {"status.state": "backing-off"}}], ids=str)
async def test_a_status_that_was_lost_or_overwritten_is_written_again(rig: BotRig, change: Any) -> None:
    """As when a bot is made anew, and when an earlier owner that was frozen still writes."""
    await rig.deploy()
    async with rig.owned_by(rig.host()):
        await eventually(lambda: is_running(rig))
        await rig.database["bots"].update_one({"id": "b"}, change)
        await eventually(lambda: is_running(rig))


NO_ANSWER = EngineUnavailable("start", "no answer")


async def test_start_without_an_answer_delays_a_start_elsewhere_until_its_outcome_is_known(rig: BotRig) -> None:
    await rig.deploy()
    one, other = rig.host("one", faults_after=[NO_ANSWER]), rig.host("other")
    one.made = partial(taken_away, one, one.made)
    async with rig.owned_by(one):
        await eventually(lambda: backs_off(rig))
        await rig.create_again_in(2)

        async with rig.owned_by(other, segment=2):
            await has_looked(rig)
            assert other.starts == []

            one.away = None
            await eventually(lambda: other.alive("b"))

    assert rig.doubles == []


def taken_away(host: FakeHost, made: Callable[[ManagedContainer], None], container: ManagedContainer) -> None:
    host.away = NO_ANSWER
    made(container)


async def test_a_start_without_an_answer_is_one_run_whose_record_is_open_while_it_runs(rig: BotRig) -> None:
    await rig.deploy()
    host = rig.host(faults_after=[NO_ANSWER])
    async with rig.owned_by(host):
        await eventually(lambda: is_running(rig))

    [container] = host.alive("b")
    assert [run.run_id for run in await rig.history(ended=False)] == [container.run_id]
    assert await rig.history() == []


async def test_bot_that_the_engine_lists_as_ended_although_it_runs_goes_on(rig: BotRig) -> None:
    await rig.deploy()
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: is_running(rig))
    host.stale_lists = 1

    async with rig.owned_by(host) as owned:
        await eventually(lambda: is_adopted(rig, owned.epoch))

    assert (len(host.alive("b")), len(host.stopped), len(host.starts)) == (1, 0, 1)
    assert await rig.history() == []


async def test_a_start_that_came_to_nothing_is_noted_though_its_bot_is_gone(rig: BotRig) -> None:
    await rig.deploy()
    host = rig.host(faults=[NO_ANSWER] * 1000)
    async with rig.owned_by(host):
        await eventually(lambda: backs_off(rig))
        await rig.entities.delete("b")
        await eventually(lambda: all_noted(rig))

    assert {run.reason for run in await rig.history()} == {"not-started"}


async def all_noted(rig: BotRig) -> bool:
    return bool(await rig.history()) and not await rig.history(ended=False)


async def test_of_two_that_begin_at_the_same_moment_at_most_one_starts_it(rig: BotRig) -> None:
    await rig.deploy()
    await rig.create_again_in(2)
    hosts = {1: rig.host("one"), 2: rig.host("other")}
    together = Together(rig.runs, 2)

    async def begin(segment: int, host: FakeHost) -> bool:
        lease = await rig.acquire(host, segment)
        return await rig.records(host, lease, runs=together).begin(await rig.executable(lease)) is None

    begun = await asyncio.gather(*(begin(segment, host) for segment, host in hosts.items()))

    assert sum(begun) <= 1
    assert len(await rig.history(ended=False)) == sum(begun)


class Together:
    """Runs whose first list is answered to all *number* callers at once, so that each saw none of the others."""

    def __init__(self, runs: Any, number: int) -> None:
        self._runs = runs
        self._barrier = asyncio.Barrier(number)
        self._met = 0
        self._number = number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runs, name)

    async def list(self, *args: Any, **kwargs: Any) -> list[RunRecord]:
        found: list[RunRecord] = await self._runs.list(*args, **kwargs)
        if self._met < self._number:
            self._met += 1
            await self._barrier.wait()
        return found


async def has_looked(rig: BotRig, times: int = 2) -> None:
    """An owner has found out *times* more that a bot may not begin yet."""
    await eventually(partial(_looked, rig.looks, rig.looks.writes + times))


def _looked(looks: Death, times: int) -> bool:
    return looks.writes >= times


async def is_adopted(rig: BotRig, epoch: int) -> bool:
    return [run.epoch for run in await rig.history(ended=False)] == [epoch]


async def is_running(rig: BotRig, bot_id: str = "b") -> bool:
    return (await rig.status(bot_id)).get("state") == "running" and bool(await rig.history(bot_id, ended=False))


async def backs_off(rig: BotRig) -> bool:
    return (await rig.status()).get("state") == "backing-off"


async def is_running_again(rig: BotRig, host: FakeHost, bot_id: str) -> bool:
    status = await rig.status(bot_id)
    return bool(host.alive(bot_id)) and status.get("state") == "running" and status["restarts"] == 1


async def dead_or_running_again(rig: BotRig, host: FakeHost, death: Death, bot_id: str) -> bool:
    return death.dead.is_set() or await is_running_again(rig, host, bot_id)
