"""Each backtest gets one outcome despite failures, and a slow backtest delays no other."""

import asyncio
from functools import partial

import pytest

from libs.core.secrets.config_masks import MASK
from libs.core.store.holds import HoldTarget
from libs.docker_runner.containers.container import EndReason
from services.backtest_runner.parameters import Parameters
from services.backtest_runner.result_spool import INLINE_BYTES
from tests.support.eventually import eventually
from tests.support.faults.deaths import Death
from tests.support.rigs.backtest_rig import BacktestRig, FakeHost, backtest_rig

__all__ = ["backtest_rig"]


async def completed_once(rig: BacktestRig) -> None:
    """Result, output and event are there, and all are of the same run."""
    await eventually(rig.over)
    [event] = await rig.events()
    analysis = await rig.analysis()
    output = (await rig.read("b/logs.txt") or b"").decode()
    assert event["success"] is True
    assert f"output of {analysis['run']}" in output
    assert await rig.left_in_storage() == ["b/analysis.json", "b/logs.txt"]


async def test_a_backtest_is_run_once_and_handed_over(rig: BacktestRig) -> None:
    await rig.announce()
    host = rig.host()

    async with rig.owned_by(host):
        await completed_once(rig)
        # Its slot is handed back after it is gone.
        await eventually(lambda: rig.partitions_told)

    [run] = await rig.history()
    assert (host.runs, run.reason, rig.partitions_told) == (["b"], "finished", 1)


async def test_config_of_a_completed_one_is_in_its_history_without_secrets(rig: BacktestRig) -> None:
    await rig.announce(fast=5, api_key="abc")

    async with rig.owned_by(rig.host()):
        await eventually(rig.over)

    [run] = await rig.history()
    assert Parameters.from_text(run.parameters) == Parameters({"fast": 5, "api_key": MASK})


async def test_owner_of_a_completed_one_is_notified_once(rig: BacktestRig) -> None:
    await rig.announce(notify={"url": "https://hook.example/x"})

    async with rig.owned_by(rig.host()):
        await completed_once(rig)

    [found] = await rig.database["notifications"].find({}).to_list()
    body = found["body"]
    assert (body["event"], body["entity_id"], body["success"]) == ("backtest.done", "b", True)


@pytest.mark.parametrize("same_host", [True, False], ids=["same host", "another host"])
@pytest.mark.parametrize("padding", [0, 2 * INLINE_BYTES], ids=["small", "large"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_a_worker_that_dies_at_any_write_leaves_one_outcome(
    rig: BacktestRig, before: bool, padding: int, same_host: bool
) -> None:
    at = 1
    while await dies_and_is_finished_by_the_next(rig, Death(at, before=before), f"b{at}", padding, same_host):
        at += 1
    assert at > 7


async def dies_and_is_finished_by_the_next(
    rig: BacktestRig, death: Death, backtest_id: str, padding: int, same_host: bool
) -> bool:
    """Check what is left after a death and the next worker. False when there was nothing left to die at."""

    async def dead_or_over() -> bool:
        return death.dead.is_set() or await rig.over(backtest_id)

    await rig.announce(backtest_id)
    first = rig.host("first", padding=padding)
    async with rig.owned_by(first, death=death):
        await eventually(dead_or_over)
    second = first if same_host else rig.host("second", padding=padding)
    async with rig.owned_by(second):
        await eventually(lambda: rig.over(backtest_id))

    events, analysis = await rig.events(backtest_id), await rig.analysis(backtest_id)
    assert [event["success"] for event in events] == [True]
    assert analysis["run"] in (await rig.read(f"{backtest_id}/logs.txt") or b"").decode()
    assert len(await rig.left_in_storage(backtest_id)) == 2
    assert await rig.history(backtest_id, ended=False) == []
    return death.reached


async def test_what_a_dead_worker_had_decided_stays(rig: BacktestRig) -> None:
    await rig.announce()
    death = Death(4)  # claim, end of the run, decision, then the result goes to the storage
    async with rig.owned_by(rig.host("first"), death=death):
        await eventually(death.dead.is_set)
    decided = (await rig.database["backtests"].find_one({"id": "b"}) or {})["backtest"]["outcome"]["run_id"]

    second = rig.host("second")
    async with rig.owned_by(second):
        await completed_once(rig)

    assert (await rig.analysis())["run"] == decided
    assert second.runs == []


async def test_one_that_kills_its_workers_is_given_up_with_the_reason(rig: BacktestRig) -> None:
    await rig.announce()
    host = rig.host(run_seconds=None)
    for number in range(1, 4):
        async with rig.owned_by(host, max_retries=2):
            await eventually(partial(_has_run, host, number))

    async with rig.owned_by(rig.host(), max_retries=2):
        await eventually(rig.over)

    [event] = await rig.events()
    assert (event["success"], (await rig.analysis())["status"]) == (False, "error")
    assert "after 3 attempts" in event["error"]
    assert "worker died" in event["error"]


async def test_run_of_a_segment_that_is_handed_over_is_continued_by_the_neighbour(rig: BacktestRig) -> None:
    await rig.announce()
    host = rig.host(run_seconds=None)
    async with rig.owned_by(host) as owned:
        [container] = await eventually(lambda: host.alive("b"))
        owned.is_handed_over = True
    assert host.alive("b") == [container]

    async with rig.owned_by(host):
        await eventually(lambda: rig.pool is not None and rig.pool.running)
        host.end(container.container_id)
        await completed_once(rig)

    [run] = await rig.history()
    assert (host.runs, run.reason) == (["b"], "finished")


async def test_a_run_that_was_killed_from_outside_is_tried_again(rig: BacktestRig) -> None:
    await rig.announce()
    host = rig.host(reasons=[EndReason.KILLED, EndReason.LEASE_LOST])

    async with rig.owned_by(host):
        await completed_once(rig)

    assert [run.reason for run in await rig.history()][::-1] == ["killed", "lease-lost", "finished"]


async def test_the_pool_is_refilled_as_each_ends_and_never_over_its_size(rig: BacktestRig) -> None:
    host = rig.host(run_seconds=0.05, first_together=3)
    for number in range(12):
        await rig.announce(f"b{number}")

    async with rig.owned_by(host, size=3):
        await eventually(lambda: _count_is(rig, 0))

    assert (len(host.runs), host.most_at_once) == (12, 3)


async def test_a_cancelled_one_ends_and_is_completed_as_cancelled(rig: BacktestRig) -> None:
    await rig.announce()
    host = rig.host(run_seconds=None)
    async with rig.owned_by(host) as owned:
        await eventually(lambda: host.containers)
        await rig.set("b", backtest__cancel={"by": "alice"})
        owned.wake.set()
        await eventually(rig.over)

    [event] = await rig.events()
    assert event["error"] == "cancelled by alice"
    assert b"output of" in (await rig.read("b/logs.txt") or b"")


async def test_one_that_is_cancelled_before_its_turn_is_never_run(rig: BacktestRig) -> None:
    await rig.announce()
    await rig.set("b", backtest__cancel={"by": "alice"})
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(rig.over)

    assert host.runs == []


async def test_a_held_one_is_stopped_and_runs_again_when_it_is_resumed(rig: BacktestRig) -> None:
    await rig.announce()
    host = rig.host(run_seconds=None)
    async with rig.owned_by(host) as owned:
        await eventually(lambda: host.containers)
        await rig.entities.holds.hold(HoldTarget.entity("b"))
        owned.wake.set()
        await eventually(rig.history)
        host.run_seconds = 0.0
        await asyncio.sleep(0.3)
        assert host.runs == ["b"]

        await rig.entities.holds.resume(HoldTarget.entity("b"))
        await completed_once(rig)

    assert (await rig.history())[0].attempt == 1


async def test_a_document_of_an_older_runtime_is_run(rig: BacktestRig) -> None:
    await rig.announce()
    await rig.database["backtests"].update_one(
        {"id": "b"}, {"$unset": {"revision": "", "event": "", "alternates": "", "trace": ""}}
    )
    host = rig.host()
    async with rig.owned_by(host):
        await completed_once(rig)

    assert host.runs == ["b"]


def _has_run(host: FakeHost, times: int) -> bool:
    return len(host.runs) == times


async def _count_is(rig: BacktestRig, number: int) -> bool:
    return await rig.entities.count() == number
