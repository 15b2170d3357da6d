"""Backtests above the quota of their owner: they wait in the queue, say why, and lose nothing."""

from functools import partial
from typing import Any

from libs.core.run_record import RunRecord
from libs.core.store.quotas import Quota
from libs.docker_runner.containers.container import ManagedContainer
from tests.support.eventually import eventually
from tests.support.rigs.backtest_rig import BacktestRig, FakeHost, backtest_rig

__all__ = ["backtest_rig"]


async def status(rig: BacktestRig, backtest_id: str) -> dict[str, Any]:
    return (await rig.database["backtests"].find_one({"id": backtest_id}) or {}).get("status") or {}


async def waiting(rig: BacktestRig) -> list[str]:
    """The backtests that say that they wait for the quota."""
    found = rig.database["backtests"].find({"status.state": "waiting", "status.detail": {"$regex": "QUOTA_RUNNING"}})
    return [document["id"] async for document in found]


async def holders(rig: BacktestRig) -> list[str]:
    document = await rig.database["quotas"].find_one({"_id": ""}) or {}
    return [holder["id"] for holder in document.get("holders", ())]


def only_one(host: FakeHost) -> ManagedContainer:
    [container] = host.containers.values()
    return container


async def runs(rig: BacktestRig, *backtest_ids: str) -> list[RunRecord]:
    return [run for backtest_id in backtest_ids for run in await rig.history(backtest_id)]


async def test_backtests_above_the_quota_wait_and_each_runs_once_when_there_is_a_place(rig: BacktestRig) -> None:
    rig.quota = Quota(count=1)
    rig.timeout_seconds = 600.0
    host = rig.host(run_seconds=None)
    for backtest_id in ("b0", "b1", "b2"):
        await rig.announce(backtest_id)
    async with rig.owned_by(host):
        await eventually(lambda: two_wait(rig))
        await eventually(lambda: host.containers)
        running = only_one(host)
        one = (await waiting(rig))[0]
        assert (await status(rig, one))["detail"] == "waiting: quota of owner '': 1 of 1 running (QUOTA_RUNNING)"
        assert (await status(rig, one)).get("lacking") is None
        assert rig.pool is not None
        assert rig.pool.demand().lacking is None

        # One that waits needs no place to be cancelled.
        await rig.set(one, backtest__cancel={"by": "ann"})
        await eventually(lambda: rig.over(one))
        host.run_seconds = 0.0
        host.end(running.container_id)
        for backtest_id in ("b0", "b1", "b2"):
            await eventually(partial(rig.over, backtest_id))

    ends = sorted((run.reason, run.attempt) for run in await runs(rig, "b0", "b1", "b2"))
    assert ends == [("cancelled", 1), ("finished", 1), ("finished", 1)]
    assert host.most_at_once == 1
    assert await holders(rig) == []


async def two_wait(rig: BacktestRig) -> bool:
    return len(await waiting(rig)) == 2


async def test_place_of_a_backtest_that_ended_with_its_worker_is_free(rig: BacktestRig) -> None:
    rig.quota = Quota(count=1)
    # As if a worker had died after the removal of the document.
    await rig.database["quotas"].insert_one(
        {"_id": "", "holders": [{"id": "gone", "run": "r", "memory_bytes": 0, "cpus": 0.0}]}
    )
    await rig.announce("b")
    async with rig.owned_by(rig.host()):
        await eventually(lambda: rig.over("b"))
