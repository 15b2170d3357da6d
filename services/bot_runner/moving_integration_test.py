"""A bot that is ordered to move is stopped, recorded and moved, and runs in its new segment; never in both."""

from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from libs.core.store.holds import HoldTarget
from libs.core.store.relocations import COMPACTION
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.faults.deaths import Death
from tests.support.rigs.bot_rig import BotRig, bot_rig

__all__ = ["bot_rig"]

BOT = "b"


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def deployed(rig: BotRig) -> None:
    """A bot in segment 1, and segment 2 with another entity."""
    await rig.deploy()
    await rig.database["partitions"].insert_one({"_id": 2, "bot_count": 1})
    await rig.database["bots"].insert_one(
        {"id": "other", "segment_id": 2, "revision": 1, "config": {"enabled": False}, "custom": {}}
    )


async def order(rig: BotRig) -> bool:
    entity = await rig.entities.get(BOT)
    assert entity is not None
    return await rig.entities.relocations.order(
        entity.as_read, origin=1, target=2, revision=entity.revision, reason=COMPACTION
    )


async def segment_of(rig: BotRig) -> int:
    entity = await rig.entities.get(BOT)
    assert entity is not None
    return entity.segment_id


async def is_in(rig: BotRig, segment: int) -> bool:
    return await segment_of(rig) == segment


async def runs(rig: BotRig) -> bool:
    return (await rig.status()).get("state") == "running"


async def is_killed(rig: BotRig) -> bool:
    return (await rig.status()).get("state") == "killed"


async def is_refused(rig: BotRig) -> bool:
    entity = await rig.entities.get(BOT)
    assert entity is not None
    last = entity.relocation
    return last is not None and last.deadline is not None and last.deadline < datetime.now(UTC).timestamp()


async def counts(rig: BotRig) -> dict[int, int]:
    return await rig.entities.partitions.occupied()


async def test_ordered_bot_ends_is_recorded_and_runs_in_its_new_segment(rig: BotRig) -> None:
    old, new = rig.host("old"), rig.host("new")
    async with rig.owned_by(old, segment=1), rig.owned_by(new, segment=2):
        await eventually(lambda: runs(rig))
        assert await order(rig)

        await eventually(lambda: new.alive(BOT))
        await eventually(lambda: runs(rig))

    assert rig.doubles == []
    assert old.alive(BOT) == []
    assert await is_in(rig, 2)
    [run] = await rig.history()
    assert (run.segment_id, run.reason) == (1, "moved")
    assert run.message == "moved: compaction: from segment 1 to segment 2"
    assert await counts(rig) == {2: 2}


async def test_disabled_bot_moves_and_nothing_of_it_starts(rig: BotRig) -> None:
    await rig.deploy(version="2", enabled=False)
    old, new = rig.host("old"), rig.host("new")
    async with rig.owned_by(old, segment=1), rig.owned_by(new, segment=2):
        assert await order(rig)
        await eventually(lambda: is_in(rig, 2))

    assert old.starts == new.starts == []


async def test_killed_bot_stays_down_where_it_is(rig: BotRig) -> None:
    old = rig.host("old")
    await rig.entities.holds.hold(HoldTarget.entity(BOT))
    async with rig.owned_by(old, segment=1), rig.owned_by(rig.host("new"), segment=2):
        assert await order(rig)
        await eventually(lambda: is_killed(rig))

    assert await is_in(rig, 1)
    assert old.starts == []


@pytest.mark.parametrize("obstacle", ["target full", "target without an owner", "logs not stored", "bot changed"])
async def test_bot_that_cannot_move_runs_on_where_it_is(rig: BotRig, obstacle: str) -> None:
    old, new = rig.host("old"), rig.host("new")
    async with rig.owned_by(old, segment=1):
        await eventually(lambda: runs(rig))
        if obstacle != "target without an owner":
            await rig.acquire(new, 2)
        if obstacle == "target full":
            await rig.database["partitions"].update_one({"_id": 2}, {"$set": {"bot_count": 1000}})
        old.logs_are_stored = obstacle != "logs not stored"
        assert await order(rig)
        if obstacle == "bot changed":
            await rig.deploy(version="2", more=1)
            await eventually(lambda: len(old.starts) == 2)
        else:
            await eventually(lambda: is_refused(rig))
            assert len(old.starts) == 1

        assert await is_in(rig, 1)
        await eventually(lambda: old.alive(BOT))


async def test_logs_that_cannot_be_stored_after_the_stop_keep_the_bot_where_it_is(rig: BotRig) -> None:
    old = FailsAfterStop("old", run_seconds=None)
    async with rig.owned_by(old, segment=1), rig.owned_by(rig.host("new"), segment=2):
        await eventually(lambda: runs(rig))
        assert await order(rig)
        await eventually(lambda: is_refused(rig))
        await eventually(lambda: len(old.starts) == 2 and old.alive(BOT))

    assert await is_in(rig, 1)
    assert [run.reason for run in await rig.history()] == ["moved"]


class FailsAfterStop(FakeHost):
    """A host that uploads output only while its containers run."""

    async def stored(self, entity_id: str, limit_seconds: float) -> bool:
        return bool(self.alive(entity_id))


WRITES = 6
"""Those of a stop and a move: the stop, the record of its end, the removal, and the move; and some to spare."""


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, WRITES + 1))
async def test_owner_that_dies_at_any_write_of_a_move_leaves_a_bot_that_runs_once(
    rig: BotRig, at: int, before: bool
) -> None:
    old, new = rig.host("old"), rig.host("new")
    death = Death(before=before)
    async with rig.owned_by(new, segment=2):
        async with rig.owned_by(old, segment=1, death=death):
            await eventually(lambda: runs(rig))
            death.crash_at(at)
            assert await order(rig)
            await eventually(lambda: death.dead.is_set() or new.alive(BOT))
        async with rig.owned_by(old, segment=1):
            await eventually(lambda: len([*old.alive(BOT), *new.alive(BOT)]) == 1)
            await eventually(lambda: runs(rig))

    assert rig.doubles == []
    assert death.reached or at > 4


async def test_version_after_a_move_to_a_segment_of_a_lower_epoch_is_accepted(rig: BotRig) -> None:
    for _ in range(3):
        await rig.acquire(rig.host("old"), 1)
    old, new = rig.host("old"), rig.host("new")
    async with rig.owned_by(old, segment=1), rig.owned_by(new, segment=2):
        await eventually(lambda: has_release(rig, 1))
        assert await order(rig)
        await eventually(lambda: new.alive(BOT))

        await rig.deploy(version="2", more=1)

        await eventually(lambda: has_release(rig, 2))
        await eventually(lambda: len(new.starts) == 2 and new.alive(BOT))
    assert rig.doubles == []


async def has_release(rig: BotRig, revision: int) -> bool:
    entity = await rig.entities.get(BOT)
    assert entity is not None
    current = (entity.document.get("release") or {}).get("current") or {}
    return bool(current.get("revision") == revision)


async def test_move_that_a_frozen_owner_sends_after_the_deadline_has_no_effect(rig: BotRig) -> None:
    await rig.acquire(rig.host("new"), 2)
    assert await order(rig)
    entity = await rig.entities.get(BOT)
    assert entity is not None
    assert entity.relocation is not None
    past = datetime.now(UTC) - timedelta(seconds=1)
    await rig.database["bots"].update_one({"id": BOT}, {"$set": {"relocation.deadline": past}})

    assert not await rig.entities.relocations.carry_out(BOT, entity.config, entity.relocation)
    assert await is_in(rig, 1)
    assert await counts(rig) == {1: 1, 2: 1}
