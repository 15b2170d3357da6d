"""Bots that their engine has no room for: they wait, say for what, and start when there is some."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial

from libs.core.room import MIB, Demand, Need
from libs.core.store.holds import HoldTarget
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost, looking
from tests.support.rigs.bot_rig import BotRig, bot_rig

__all__ = ["bot_rig"]

ONE = Need(512 * MIB)


@contextlib.asynccontextmanager
async def crowded(rig: BotRig, bots: int = 2, capacity_mib: int = 512) -> AsyncIterator[FakeHost]:
    """A host with an owner, on which the first bot runs, and all others wait."""
    host = rig.host(capacity=Need(capacity_mib * MIB))
    await rig.deploy("b0")
    async with looking(host), rig.owned_by(host):
        await eventually(lambda: in_state(rig, "b0", "running"))
        for number in range(1, bots):
            await rig.deploy(f"b{number}")
        for number in range(1, bots):
            await eventually(partial(in_state, rig, f"b{number}", "waiting"))
        yield host


def other_run(host: FakeHost, run_id: str) -> bool:
    return any(container.run_id != run_id for container in host.alive("b0"))


async def in_state(rig: BotRig, bot_id: str, state: str) -> bool:
    return (await rig.status(bot_id)).get("state") == state


async def test_bot_without_room_waits_and_reports_how_much_is_missing(rig: BotRig) -> None:
    async with crowded(rig, capacity_mib=900):
        status = await rig.status("b1")

    assert status["detail"] == "waiting: needs 512 MiB, the engine has 388 MiB free"
    assert Need.from_document(status["lacking"]) == ONE
    assert (status["failures"], status["restarts"], status["not_before"]) == (0, 0, 0.0)


async def test_a_bot_that_waits_leaves_no_runs_in_the_history(rig: BotRig) -> None:
    # The first look at the room of a host is a start.
    host = rig.host(capacity=ONE)
    await rig.deploy("b0")
    await rig.deploy("b1")
    async with rig.owned_by(host):
        await eventually(lambda: len(host.starts) == 2 and (host.alive("b0") or host.alive("b1")))
        waiting = "b1" if host.alive("b0") else "b0"
        await eventually(lambda: in_state(rig, waiting, "waiting"))

        assert await rig.history(waiting) == []
        assert await rig.history(waiting, ended=False) == []


async def test_a_running_bot_that_is_updated_does_not_lose_its_place_to_one_that_waits(rig: BotRig) -> None:
    async with crowded(rig, bots=4) as host:
        for version in range(5):
            [before] = host.alive("b0")
            await rig.deploy("b0", change=version)
            await eventually(partial(other_run, host, before.run_id))

        assert {start.entity_id for start in host.starts if host.alive(start.entity_id)} == {"b0"}


async def test_a_waiting_bot_starts_once_another_is_gone(rig: BotRig) -> None:
    async with crowded(rig, bots=3) as host:
        await rig.entities.delete("b0")
        await eventually(lambda: host.alive("b1") or host.alive("b2"))

        assert len(host.alive("b1")) + len(host.alive("b2")) == 1
        second = "b2" if host.alive("b1") else "b1"
        await eventually(lambda: in_state(rig, second, "waiting"))
        assert len([*host.alive("b1"), *host.alive("b2")]) == 1


async def test_stop_and_kill_switch_do_not_wait_for_room(rig: BotRig) -> None:
    async with crowded(rig, bots=3) as host:
        await rig.deploy("b1", enabled=False)
        await rig.entities.holds.hold(HoldTarget.entity("b2"))
        await eventually(lambda: in_state(rig, "b1", "disabled"))
        await eventually(lambda: in_state(rig, "b2", "killed"))
        await rig.entities.holds.hold(HoldTarget.entity("b0"))
        await eventually(lambda: not host.alive("b0"))

        assert host.room.waiting == 0


async def test_a_small_bot_does_not_wait_behind_a_large_one(rig: BotRig) -> None:
    async with crowded(rig, capacity_mib=1000) as host:
        await rig.deploy("small", resources={"memoryMb": 256})
        await eventually(lambda: host.alive("small"))

        assert await in_state(rig, "b1", "waiting")


async def test_an_update_of_the_only_bot_that_fits_starts_it_again(rig: BotRig) -> None:
    host = rig.host(capacity=ONE)
    await rig.deploy("b0")
    async with looking(host), rig.owned_by(host):
        await eventually(lambda: in_state(rig, "b0", "running"))
        [before] = host.alive("b0")
        await rig.deploy("b0", change=2)
        await eventually(lambda: [c for c in host.alive("b0") if c.run_id != before.run_id])


async def test_segment_reports_what_its_bots_need_and_lack(rig: BotRig) -> None:
    async with crowded(rig, bots=2):
        await rig.deploy("large", resources={"memoryMb": 1024})
        await rig.deploy("off", enabled=False)
        expected = Demand(Need(2048 * MIB), Need(1024 * MIB))
        await eventually(lambda: rig.reconcilers[1].demand() == expected)
        await rig.entities.delete("large")
        await rig.entities.delete("b1")
        await eventually(lambda: rig.reconcilers[1].demand() == Demand(ONE, None))


async def test_an_owner_that_ends_waits_for_nothing(rig: BotRig) -> None:
    async with crowded(rig) as host:
        await eventually(lambda: host.room.waiting == 1)
    assert host.room.waiting == 0


async def test_two_segments_on_one_engine_give_the_last_room_away_once(rig: BotRig) -> None:
    host = rig.host(capacity=ONE)
    for number, segment in enumerate([1, 2]):
        await rig.deploy(f"b{number}")
        await rig.database["bots"].update_one({"id": f"b{number}"}, {"$set": {"segment_id": segment}})
        await rig.database["partitions"].update_one({"_id": segment}, {"$set": {"bot_count": 1}}, upsert=True)
    async with looking(host), rig.owned_by(host, segment=1), rig.owned_by(host, segment=2):
        await eventually(lambda: host.alive("b0") or host.alive("b1"))
        waiting = "b1" if host.alive("b0") else "b0"
        await eventually(lambda: in_state(rig, waiting, "waiting"))
        assert len([*host.alive("b0"), *host.alive("b1")]) == 1
