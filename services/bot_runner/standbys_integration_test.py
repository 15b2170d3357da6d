"""An update by a standby: never two copies, never none for long, with workers that die at any write."""

import asyncio
from functools import partial

import pytest

from libs.core.room import MIB, Need
from libs.core.store.holds import HoldTarget
from libs.docker_runner.executable import Limits
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost, looking
from tests.support.faults.deaths import Death
from tests.support.rigs.bot_rig import BotRig, bot_rig

__all__ = ["bot_rig"]

ONE = Limits().need
BOT = HoldTarget.entity("b")


@pytest.fixture(autouse=True)
def with_standbys(rig: BotRig) -> None:
    rig.standby_updates = True


async def runs(rig: BotRig, host: FakeHost, bot_id: str, version: int) -> bool:
    """Whether that version runs, and all that is left of other runs is recorded."""
    alive = host.alive(bot_id)
    status = await rig.status(bot_id)
    open_runs = [run.run_id for run in await rig.history(bot_id, ended=False)]
    is_running = [one.revision for one in alive] == [version] and status.get("state") == "running"
    return is_running and open_runs == [alive[0].run_id] and len(host.containers) == 1


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_update_is_completed_once_whenever_the_worker_dies(rig: BotRig, before: bool) -> None:
    at = 1
    while await one_update_is_completed(rig, Death(at, before=before), f"b{at}"):
        at += 1
    assert at > 12


async def one_update_is_completed(rig: BotRig, death: Death, bot_id: str) -> bool:
    await rig.deploy(bot_id)
    host = rig.host()
    async with looking(host):
        async with rig.owned_by(host):
            await eventually(partial(runs, rig, host, bot_id, 1))
        await rig.deploy(bot_id, version="2")

        async with rig.owned_by(host, death=death):
            await eventually(partial(died_or_runs, rig, host, death, bot_id))
        async with rig.owned_by(host):
            await eventually(partial(runs, rig, host, bot_id, 2))
            await eventually(lambda: not host.standbys)

    assert rig.doubles == []
    # Of the other runs of the new version none has begun.
    assert len([run for run in await rig.history(bot_id) if run.exit_code is not None]) == 1
    assert (await rig.status(bot_id))["restarts"] == 0
    await rig.entities.delete(bot_id)
    return death.reached


async def died_or_runs(rig: BotRig, host: FakeHost, death: Death, bot_id: str) -> bool:
    return death.dead.is_set() or await runs(rig, host, bot_id, 2)


async def test_update_lets_its_standby_go_after_the_old_container_is_gone(rig: BotRig) -> None:
    await rig.deploy()
    host = rig.host()
    async with looking(host), rig.owned_by(host):
        await eventually(partial(runs, rig, host, "b", 1))
        await rig.deploy(version="2")
        await eventually(partial(runs, rig, host, "b", 2))

        [container] = host.alive("b")
        assert host.let_go == [container.run_id]
        assert host.standbys == {}
    assert rig.doubles == []
    assert [run.reason for run in await rig.history()] == ["changed"]


async def test_update_without_room_for_two_is_as_without_standbys(rig: BotRig) -> None:
    await rig.deploy()
    host = rig.host(capacity=Need(ONE.memory_bytes + MIB, 100.0))
    async with looking(host), rig.owned_by(host):
        await eventually(partial(runs, rig, host, "b", 1))
        await rig.deploy(version="2")
        await eventually(partial(runs, rig, host, "b", 2))
    assert (host.let_go, host.standbys) == ([], {})


async def test_kill_during_the_stop_removes_the_standby_within_a_second(rig: BotRig) -> None:
    await rig.deploy()
    rig.stop_grace_seconds = 30.0
    host = rig.host(stubborn=True)
    async with looking(host), rig.owned_by(host):
        await eventually(partial(runs, rig, host, "b", 1))
        await rig.deploy(version="2")
        await eventually(lambda: host.standbys and host.graces.get("b"))

        await rig.entities.holds.hold(BOT)
        rig.reconcilers[1].wake.set()
        await eventually(lambda: not host.alive("b") and not host.standbys, within_seconds=5)
    assert host.let_go == []


async def test_kill_does_not_wait_for_a_standby_that_is_never_ready(rig: BotRig) -> None:
    await rig.deploy()
    host = rig.host(hang_standbys=True)
    async with looking(host), rig.owned_by(host):
        await eventually(partial(runs, rig, host, "b", 1))
        await rig.deploy(version="2")
        await asyncio.sleep(0.5)
        await rig.entities.holds.hold(BOT)
        rig.reconcilers[1].wake.set()
        await eventually(lambda: not host.alive("b"), within_seconds=3)


async def test_bot_that_is_disabled_during_the_stop_leaves_no_standby(rig: BotRig) -> None:
    await rig.deploy()
    rig.stop_grace_seconds = 30.0
    host = rig.host(stubborn=True)
    async with looking(host), rig.owned_by(host):
        await eventually(partial(runs, rig, host, "b", 1))
        await rig.deploy(version="2")
        await eventually(lambda: host.standbys and host.graces.get("b"))
        await rig.deploy(version="3", enabled=False)
        host.end("c-" + host.starts[0].run_id, 143)
        await eventually(lambda: not host.containers and not host.standbys)
    assert host.let_go == []


async def test_version_that_is_replaced_during_the_stop_does_not_run(rig: BotRig) -> None:
    await rig.deploy()
    rig.stop_grace_seconds = 30.0
    host = rig.host(stubborn=True)
    async with looking(host), rig.owned_by(host):
        await eventually(partial(runs, rig, host, "b", 1))
        await rig.deploy(version="2")
        await eventually(lambda: host.standbys and host.graces.get("b"))
        await rig.deploy(version="3")
        host.end("c-" + host.starts[0].run_id, 143)
        await eventually(partial(runs, rig, host, "b", 3))
        await eventually(lambda: not host.standbys)
    assert host.let_go == []
    assert rig.doubles == []


async def test_next_owner_removes_the_standby_of_an_earlier_one(rig: BotRig) -> None:
    await rig.deploy()
    rig.stop_grace_seconds = 30.0
    host = rig.host(stubborn=True)
    async with looking(host):
        async with rig.owned_by(host):
            await eventually(partial(runs, rig, host, "b", 1))
            await rig.deploy(version="2")
            await eventually(lambda: host.standbys and host.graces.get("b"))
        [left] = host.standbys
        host.stubborn = False
        async with rig.owned_by(host):
            await eventually(lambda: left not in host.standbys)
            await eventually(partial(runs, rig, host, "b", 2))
    assert left.removeprefix("c-") not in host.let_go
    assert rig.doubles == []
