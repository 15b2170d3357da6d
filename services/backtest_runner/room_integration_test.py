"""Backtests that their engine has no room for: they wait in the queue, and it costs them nothing."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from libs.core.room import MIB, Demand, Need
from libs.core.store.holds import HoldTarget
from services.backtest_runner.pool import SegmentPool
from services.backtest_runner.verdict import CANCELLED
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import looking
from tests.support.rigs.backtest_rig import BacktestRig, FakeHost, backtest_rig

__all__ = ["backtest_rig"]

ONE = Need(512 * MIB)


@contextlib.asynccontextmanager
async def crowded(rig: BacktestRig, *waiting: str, capacity: Need = ONE, **more: Any) -> AsyncIterator[FakeHost]:
    """A host on which `full` runs until it is cancelled, and those that are *waiting* have no room."""
    rig.timeout_seconds = 600.0
    host = rig.host(run_seconds=None, capacity=capacity)
    await rig.announce("full")
    async with looking(host), rig.owned_by(host, **more):
        await eventually(lambda: host.containers)
        host.run_seconds = 0.0
        for backtest_id in waiting:
            await rig.announce(backtest_id)
        await eventually(lambda: host.room.waiting == len(waiting))
        yield host


def pool_of(rig: BacktestRig) -> SegmentPool:
    assert rig.pool is not None
    return rig.pool


async def make_room(rig: BacktestRig) -> None:
    await rig.set("full", backtest__cancel={"by": "test"})


async def status(rig: BacktestRig, backtest_id: str) -> dict[str, Any]:
    return (await rig.database["backtests"].find_one({"id": backtest_id}) or {}).get("status") or {}


async def test_a_backtest_without_room_waits_in_the_queue_and_runs_as_its_first_attempt(rig: BacktestRig) -> None:
    async with crowded(rig, "b") as host:
        assert pool_of(rig).states()["waiting"] == 1
        found = await eventually(lambda: status(rig, "b"))
        assert found["state"] == "waiting"
        assert found["detail"] == "waiting: needs 512 MiB, the engine has 0 MiB free"
        assert Need.from_document(found["lacking"]) == Need(512 * MIB)
        assert host.runs == ["full"]
        await make_room(rig)
        await eventually(lambda: rig.over("b"))

    [run] = await rig.history("b")
    assert (run.attempt, run.reason) == (1, "finished")


async def test_one_that_lost_the_race_for_the_last_room_has_used_up_no_attempt(rig: BacktestRig) -> None:
    # Nobody has looked yet: all of them are claimed, and the host refuses all but one.
    host = rig.host(run_seconds=None, capacity=ONE)
    for number in range(3):
        await rig.announce(f"b{number}")
    async with rig.owned_by(host, max_retries=0):
        await eventually(lambda: pool_of(rig).states()["waiting"] == 2)
        [runs] = [backtest_id for backtest_id in ("b0", "b1", "b2") if await rig.history(backtest_id, ended=False)]
        waiting = {"b0", "b1", "b2"} - {runs}
        assert [await rig.history(backtest_id) for backtest_id in waiting] == [[], []]
        assert [(await status(rig, backtest_id))["state"] for backtest_id in waiting] == ["waiting"] * 2
        host.run_seconds = 0.0
        async with looking(host):
            await rig.set(runs, backtest__cancel={"by": "test"})
            for backtest_id in waiting:
                await eventually(partial(rig.over, backtest_id))

    assert [[run.attempt for run in await rig.history(backtest_id)] for backtest_id in waiting] == [[1], [1]]


async def test_a_small_backtest_does_not_wait_behind_a_large_one(rig: BacktestRig) -> None:
    async with crowded(rig, "large", capacity=Need(900 * MIB)):
        await rig.announce("small", resources={"memoryMb": 128})
        await eventually(lambda: rig.over("small"))
        assert not await rig.over("large")


async def test_one_that_waits_for_room_can_be_cancelled_and_held(rig: BacktestRig) -> None:
    async with crowded(rig, "b", "held") as host:
        await rig.entities.holds.hold(HoldTarget.entity("held"))
        await rig.set("b", backtest__cancel={"by": "alice"})
        await eventually(lambda: rig.over("b"))
        await eventually(lambda: host.room.waiting == 0)
        assert host.runs == ["full"]

    [run] = await rig.history("b")
    assert run.reason == CANCELLED


async def test_segment_reports_the_needs_of_its_backtests_up_to_its_slots(rig: BacktestRig) -> None:
    async with crowded(rig, "b", "c", size=3):
        assert pool_of(rig).demand() == Demand(Need(1536 * MIB), ONE)
        await rig.announce("beyond-the-slots")
        await eventually(lambda: pool_of(rig).queue_length == 3)
        assert pool_of(rig).demand() == Demand(Need(1536 * MIB), ONE)


async def test_an_owner_that_ends_waits_for_nothing(rig: BacktestRig) -> None:
    async with crowded(rig, "b") as host:
        pass
    assert host.room.waiting == 0
