"""Quotas of owners: what exceeds one waits and says why, and starts when a place is free."""

import asyncio
import contextlib
from functools import partial

import pytest

from libs.core.room import MIB, Need
from libs.core.store.holds import HoldTarget
from libs.core.store.quotas import Quota
from libs.docker_runner.containers.container import ContainerState
from libs.docker_runner.errors import CodeMissing
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.rigs.bot_rig import BotRig, bot_rig

__all__ = ["bot_rig"]


async def states(rig: BotRig) -> dict[str, str]:
    """The state of each bot."""
    found = rig.database["bots"].find({})
    return {bot["id"]: str((bot.get("status") or {}).get("state", "")) async for bot in found}


async def settled(rig: BotRig, **counts: int) -> bool:
    """Whether so many bots are in each state, and none in another."""
    found = list((await states(rig)).values())
    return all(found.count(state) == count for state, count in counts.items()) and len(found) == sum(counts.values())


def alive(host: FakeHost) -> int:
    return sum(container.state is ContainerState.RUNNING for container in host.containers.values())


async def test_burst_over_three_workers_starts_as_many_as_the_quota_permits(rig: BotRig) -> None:
    rig.quota = Quota(count=5)
    host = rig.host()
    for number in range(30):
        await rig.deploy(f"b{number}")
    # Three segments, each with an owner of its own that decides alone.
    for segment in (1, 2, 3):
        ids = [f"b{number}" for number in range(30) if number % 3 == segment - 1]
        await rig.database["bots"].update_many({"id": {"$in": ids}}, {"$set": {"segment_id": segment}})
        await rig.database["partitions"].update_one({"_id": segment}, {"$set": {"bot_count": 10}}, upsert=True)

    async with contextlib.AsyncExitStack() as owners:
        await asyncio.gather(*(owners.enter_async_context(rig.owned_by(host, segment=n)) for n in (1, 2, 3)))
        await eventually(partial(settled, rig, running=5, waiting=25), within_seconds=60)

        assert alive(host) == 5
        assert len(host.starts) == 5
        waiting = next(bot_id for bot_id, state in (await states(rig)).items() if state == "waiting")
        status = await rig.status(waiting)
        assert status["detail"] == "waiting: quota of owner 'ann': 5 of 5 running (QUOTA_RUNNING)"
        assert (status["lacking"], status["failures"], status["not_before"]) == (None, 0, 0.0)

        running = next(bot_id for bot_id, state in (await states(rig)).items() if state == "running")
        await rig.entities.delete(running)
        await eventually(partial(settled, rig, running=5, waiting=24), within_seconds=60)
        await eventually(lambda: alive(host) == 5)
    assert max(len(host.alive(bot_id)) for bot_id in await states(rig)) <= 1


@pytest.mark.parametrize("order", ["disable", "stop"])
async def test_place_of_a_bot_that_must_not_run_goes_to_one_that_waits(rig: BotRig, order: str) -> None:
    rig.quota = Quota(count=1)
    host = rig.host()
    await rig.deploy("b0")
    async with rig.owned_by(host):
        await eventually(partial(settled, rig, running=1))
        await rig.deploy("b1")
        await eventually(partial(settled, rig, running=1, waiting=1))

        if order == "disable":
            await rig.deploy("b0", enabled=False)
        else:
            await rig.entities.holds.hold(HoldTarget.entity("b0"), graceful=True)

        await eventually(lambda: host.alive("b1"), within_seconds=60)
        assert host.alive("b0") == []


async def test_other_owners_are_not_affected(rig: BotRig) -> None:
    rig.quota = Quota(count=1)
    host = rig.host()
    for author in ("ann", "bob", "", "$ann"):
        await rig.deploy(f"first-{author}", author=author)
        await rig.deploy(f"second-{author}", author=author)
    async with rig.owned_by(host):
        await eventually(partial(settled, rig, running=4, waiting=4), within_seconds=60)


async def test_memory_of_an_owner_is_limited_by_the_sum(rig: BotRig) -> None:
    rig.quota = Quota(memory_bytes=1200 * MIB)
    host = rig.host()
    for number in range(3):
        await rig.deploy(f"b{number}", resources={"memoryMb": 500})
    async with rig.owned_by(host):
        await eventually(partial(settled, rig, running=2, waiting=1), within_seconds=60)
        await rig.deploy("small", resources={"memoryMb": 200})
        await eventually(partial(settled, rig, running=3, waiting=1), within_seconds=60)

        waiting = next(bot_id for bot_id, state in (await states(rig)).items() if state == "waiting")
        assert "of 1200 MiB in use, needs 500 MiB (QUOTA_MEMORY_MB)" in (await rig.status(waiting))["detail"]


async def test_version_that_exceeds_the_quota_waits_and_the_running_one_continues(rig: BotRig) -> None:
    rig.quota = Quota(memory_bytes=1000 * MIB)
    host = rig.host()
    await rig.deploy("b0", resources={"memoryMb": 500})
    await rig.deploy("b1", resources={"memoryMb": 400})
    async with rig.owned_by(host):
        await eventually(partial(settled, rig, running=2), within_seconds=60)
        await rig.deploy("b1", resources={"memoryMb": 600})
        await eventually(lambda: detail_with(rig, "b1", "needs 600 MiB (QUOTA_MEMORY_MB)"), within_seconds=60)

        assert "keeps running" in (await rig.status("b1"))["detail"]
        assert len(host.starts) == 2
        await rig.entities.delete("b0")
        await eventually(lambda: len(host.starts) == 3, within_seconds=60)


async def detail_with(rig: BotRig, bot_id: str, text: str) -> bool:
    return text in (await rig.status(bot_id)).get("detail", "")


async def test_starts_of_an_owner_are_limited_in_a_minute(rig: BotRig) -> None:
    rig.quota = Quota(starts_per_minute=3)
    host = rig.host(run_seconds=0.01)
    await rig.deploy("b0")
    async with rig.owned_by(host):
        await eventually(partial(settled, rig, waiting=1), within_seconds=60)

        assert len(host.starts) == 3
        assert "3 of 3 starts in the last minute" in (await rig.status("b0"))["detail"]


async def test_bots_that_ran_before_there_was_a_quota_keep_running_and_count(rig: BotRig) -> None:
    host = rig.host()
    for number in range(3):
        await rig.deploy(f"b{number}")
    async with rig.owned_by(host):
        await eventually(partial(settled, rig, running=3))
    rig.quota = Quota(count=2)
    async with rig.owned_by(host):
        await eventually(lambda: counted(rig, 3), within_seconds=60)
        await rig.deploy("b3")
        await eventually(partial(settled, rig, running=3, waiting=1), within_seconds=60)
    assert len(host.starts) == 3


async def counted(rig: BotRig, count: int) -> bool:
    document = await rig.database["quotas"].find_one({"_id": "ann"}) or {}
    return len(document.get("holders", ())) == count


async def test_rejected_bot_gives_its_place_to_another(rig: BotRig) -> None:
    rig.quota = Quota(count=1)
    host = rig.host()
    host.code_faults["gone.zip"] = CodeMissing("bots", "gone.zip")
    await rig.deploy("b0", code="gone.zip")
    async with rig.owned_by(host):
        await eventually(partial(settled, rig, rejected=1), within_seconds=60)
        await rig.deploy("b1")
        await eventually(partial(settled, rig, rejected=1, running=1), within_seconds=60)


async def test_bot_that_waits_for_a_quota_needs_no_room_of_engines(rig: BotRig) -> None:
    rig.quota = Quota(count=1)
    host = rig.host()
    await rig.deploy("b0")
    await rig.deploy("b1")
    async with rig.owned_by(host):
        await eventually(partial(settled, rig, running=1, waiting=1), within_seconds=60)
        await eventually(lambda: rig.reconcilers[1].demand().need == Need(512 * MIB), within_seconds=60)

        assert rig.reconcilers[1].demand().lacking is None
