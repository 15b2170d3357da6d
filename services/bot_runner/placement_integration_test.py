"""A bot runs only in a segment of its placement, and moves there when the placement changes."""

import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.rigs.bot_rig import BotRig, bot_rig

__all__ = ["bot_rig"]

BOT = "b"


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def deployed(rig: BotRig) -> None:
    await rig.deploy()


async def is_in(rig: BotRig, state: str) -> bool:
    return (await rig.status()).get("state") == state


async def segment_of(rig: BotRig) -> int:
    entity = await rig.entities.get(BOT)
    assert entity is not None
    return entity.segment_id


async def test_bot_whose_placement_changed_stops_and_moves_to_a_segment_of_its_placement(rig: BotRig) -> None:
    before, after = rig.host("before"), rig.host("after")
    async with rig.owned_by(before, segment=1):
        await eventually(lambda: is_in(rig, "running"))
        await rig.deploy(version="2", placement={"egress": "a"})
        await eventually(lambda: moved_from(rig, 1))
        assert before.alive(BOT) == []
        assert await is_in(rig, "waiting")
        async with rig.owned_by(after, segment=await segment_of(rig)):
            await eventually(lambda: is_in(rig, "running"))
            assert len(after.alive(BOT)) == 1

    assert rig.doubles == []
    assert [run.reason for run in await rig.history()] == ["misplaced"]


async def test_bot_that_an_older_version_put_into_a_segment_of_another_placement_never_runs_there(rig: BotRig) -> None:
    await rig.database["partitions"].update_one({"_id": 1}, {"$set": {"placement": "egress=a"}})
    host = rig.host()
    async with rig.owned_by(host, segment=1):
        await eventually(lambda: moved_from(rig, 1))

    assert host.alive(BOT) == []
    assert await rig.history() == []


async def test_disabled_bot_of_another_placement_stays_disabled_where_it_is(rig: BotRig) -> None:
    await rig.deploy(version="2", placement={"egress": "a"}, enabled=False)
    async with rig.owned_by(rig.host(), segment=1):
        await eventually(lambda: is_in(rig, "disabled"))

    assert await segment_of(rig) == 1


async def moved_from(rig: BotRig, segment: int) -> bool:
    return await segment_of(rig) != segment
