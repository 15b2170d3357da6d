"""Crashes and holds of bots lead to notifications, whenever the worker dies."""

from typing import Any

import pytest
from pydantic import SecretStr

from libs.core.config.notify_settings import NotifySettings
from libs.core.store.holds import HoldTarget
from tests.support.eventually import eventually
from tests.support.faults.deaths import Death
from tests.support.rigs.bot_rig import BotRig, bot_rig

__all__ = ["bot_rig"]

OWN = {"url": "https://hook.example/x"}


@pytest.fixture(autouse=True)
def operator(rig: BotRig) -> None:
    rig.notify = NotifySettings(url=SecretStr("https://operator.example/"))


async def queued(rig: BotRig, event: str) -> list[dict[str, Any]]:
    return [one async for one in rig.database["notifications"].find({"event": event}).sort("position", 1)]


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("step", range(1, 10))
async def test_crash_is_reported_exactly_once_to_each_receiver_whenever_the_worker_dies(
    rig: BotRig, step: int, before: bool
) -> None:
    await rig.deploy(notify=OWN)
    host = rig.host(exit_codes=[3], last_stays=True, run_seconds=0.02)
    death = Death(step, before=before)
    async with rig.owned_by(host, death=death):
        await eventually(lambda: ran_again(host.starts, death))
    async with rig.owned_by(host):
        await eventually(lambda: host.alive("b"))
        await eventually(lambda: both_queued(rig))

    found = await queued(rig, "bot.crashed")
    assert sorted(one["lane"] for one in found) == ["all b", "own b"]
    assert [(one["count"], one["body"]["exit_code"], one["body"]["reason"]) for one in found] == [(1, 3, "error")] * 2


def ran_again(starts: list[Any], death: Death) -> bool:
    return death.dead.is_set() or len(starts) > 1


async def both_queued(rig: BotRig) -> bool:
    return len(await queued(rig, "bot.crashed")) == 2


async def test_crash_loop_is_joined_and_its_backoff_reported_once(rig: BotRig) -> None:
    await rig.deploy()
    host = rig.host(exit_codes=[3] * 5, last_stays=True, run_seconds=0.02)
    async with rig.owned_by(host):
        await eventually(lambda: len(host.starts) > 5)

    [crashed] = await queued(rig, "bot.crashed")
    [backing_off] = await queued(rig, "bot.backing-off")
    assert crashed["count"] >= 3
    assert backing_off["body"]["failures"] == 3


async def test_stop_by_an_operator_is_reported_as_a_hold_and_not_as_a_crash(rig: BotRig) -> None:
    await rig.deploy()
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: host.alive("b"))
        await rig.entities.holds.hold(HoldTarget.entity("b"), "runtime bot stop", "fees", graceful=True)
        await eventually(lambda: queued(rig, "bot.held"))

    [held] = await queued(rig, "bot.held")
    assert (held["body"]["state"], held["body"]["reason"]) == ("stopped", "fees")
    assert await queued(rig, "bot.crashed") == []


async def test_changed_bot_queues_no_notification(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: host.alive("b"))
        await rig.deploy(version="2")
        await eventually(lambda: len(host.starts) > 1)

    assert await rig.database["notifications"].count_documents({}) == 0
