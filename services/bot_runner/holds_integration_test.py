"""Bots that are killed, stopped and let run again, with owners in a real MongoDB and a host that is only facts."""

import pytest
import pytest_asyncio

from libs.core.store.holds import HoldTarget
from tests.support.eventually import eventually
from tests.support.rigs.bot_rig import BotRig, bot_rig

__all__ = ["bot_rig"]

GRACE_SECONDS = 600.0
BOT = HoldTarget.entity("b")


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def deployed(rig: BotRig) -> None:
    rig.stop_grace_seconds = GRACE_SECONDS
    await rig.deploy()


async def is_in(rig: BotRig, state: str) -> bool:
    return (await rig.status()).get("state") == state


@pytest.mark.parametrize(
    ("graceful", "grace_seconds", "state"), [(True, GRACE_SECONDS, "stopped"), (False, 0.0, "killed")]
)
async def test_held_bot_ends_with_the_grace_of_its_hold_and_reports_it(
    rig: BotRig, graceful: bool, grace_seconds: float, state: str
) -> None:
    host = rig.host()
    async with rig.owned_by(host) as owned:
        await eventually(lambda: is_in(rig, "running"))

        await rig.entities.holds.hold(BOT, graceful=graceful)
        owned.wake.set()

        await eventually(lambda: is_in(rig, state))
    assert host.graces == {"b": [grace_seconds]}
    assert host.containers == {}
    assert [run.reason for run in await rig.history()] == [state]


async def test_a_stopped_bot_stays_down_over_a_new_version_and_a_new_owner_until_it_is_started(rig: BotRig) -> None:
    host = rig.host()
    await rig.entities.holds.hold(BOT, graceful=True)
    async with rig.owned_by(host):
        await eventually(lambda: is_in(rig, "stopped"))
    await rig.deploy(symbol="ETH")
    revision = (await rig.entities.by_ids(["b"]))["b"].revision

    async def new_owner_has_seen_it() -> bool:
        return (await rig.status()).get("revision") == revision

    async with rig.owned_by(host) as owned:
        await eventually(new_owner_has_seen_it)
        assert await is_in(rig, "stopped")
        assert host.starts == []

        await rig.entities.holds.resume(BOT, graceful=True)
        owned.wake.set()

        await eventually(lambda: is_in(rig, "running"))


async def test_a_kill_does_not_wait_for_the_grace_of_a_stop_that_is_under_way(rig: BotRig) -> None:
    host = rig.host(stubborn=True)
    async with rig.owned_by(host) as owned:
        await eventually(lambda: is_in(rig, "running"))
        await rig.entities.holds.hold(BOT, graceful=True)
        owned.wake.set()
        await eventually(lambda: host.graces == {"b": [GRACE_SECONDS]})
        assert len(host.alive("b")) == 1

        await rig.entities.holds.hold(BOT)
        owned.wake.set()

        await eventually(lambda: is_in(rig, "killed"))
    assert host.graces == {"b": [GRACE_SECONDS, 0.0]}
    assert [run.reason for run in await rig.history()] == ["killed"]


async def test_a_resumed_bot_stays_down_while_it_is_stopped(rig: BotRig) -> None:
    host = rig.host()
    await rig.entities.holds.hold(BOT)
    await rig.entities.holds.hold(BOT, graceful=True)
    async with rig.owned_by(host) as owned:
        await eventually(lambda: is_in(rig, "killed"))

        assert await rig.entities.holds.resume(BOT)
        owned.wake.set()

        await eventually(lambda: is_in(rig, "stopped"))
    assert host.starts == []
