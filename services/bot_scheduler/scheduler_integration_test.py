"""Owners of a segment of schedules against a real MongoDB; containers are only facts here."""

import time
from collections.abc import Sequence
from typing import Any

import pytest

from libs.core.errors import Permanent
from libs.core.store.client import StoreUnavailable
from libs.core.store.entities import Change, EntityStore
from libs.core.store.holds import HoldTarget
from libs.docker_runner.errors import CodeMissing, EngineUnavailable
from services.bot_scheduler.state import FIRED_AT, Cause, ScheduleState
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.rigs.schedule_rig import CUSTOM, ScheduleRig, schedule_rig

__all__ = ["schedule_rig"]

NEVER_SOON = "0 0 1 1 *"


async def test_each_second_becomes_one_run_on_time(rig: ScheduleRig) -> None:
    await rig.deploy()
    host = FakeHost()

    async with rig.owned_by(host):
        # The machine may be busy with other tests, but not each time.
        await eventually(lambda: on_time(rig, host, 3))

    times = [run.scheduled_at for run in await rig.history()]
    assert len(set(times)) == len(times)
    assert len({start.run_id for start in host.starts}) == len(host.starts)


async def test_a_run_leaves_its_history_and_a_status(rig: ScheduleRig) -> None:
    await rig.deploy()

    async with rig.owned_by(FakeHost()):
        [*_, run] = await eventually(rig.history)
        state = await eventually(lambda: after_a_run(rig))

    assert (run.reason, run.cause, run.attempt, run.exit_code) == ("finished", "schedule", 1, 0)
    assert run.scheduled_at is not None
    assert 0 <= (run.started_at - run.scheduled_at).total_seconds() < 5
    assert state.entity.status["last_run"]["reason"] == "finished"
    assert state.next_at is not None
    assert state.next_at > run.scheduled_at.timestamp()


async def test_firing_during_a_run_is_skipped_and_recorded_as_such(rig: ScheduleRig) -> None:
    await rig.deploy()
    host = FakeHost(run_seconds=None)

    async with rig.owned_by(host):
        history = await eventually(rig.history)

    assert {run.reason for run in history} == {"skipped"}
    assert len(host.starts) == 1


class Unheard(EntityStore):
    """Does what it is asked, and of what it did after the first time nobody learns."""

    _begun = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.unheard: list[object] = []

    async def compare_and_set_many(self, changes: Sequence[Change]) -> int:
        found = await super().compare_and_set_many(changes)
        if self._begun:
            self.unheard += [change.changes[FIRED_AT] for change in changes if FIRED_AT in change.changes]
            raise StoreUnavailable("planned")
        self._begun = True
        return found


async def test_skipped_firing_is_recorded_despite_a_lost_answer_to_its_claim(rig: ScheduleRig) -> None:
    store = rig.use(Unheard)
    await rig.deploy()
    host = FakeHost(run_seconds=None)

    async with rig.owned_by(host):
        await eventually(lambda: len(store.unheard) >= 2)
        unheard = set(store.unheard)
        await eventually(lambda: are_noted(rig, unheard))

    assert {run.reason for run in await rig.history()} == {"skipped"}
    assert len(host.starts) == 1


async def are_noted(rig: ScheduleRig, times: set[object]) -> bool:
    noted = [run.scheduled_at.timestamp() for run in await rig.history() if run.scheduled_at is not None]
    return times <= set(noted) and len(noted) == len(set(noted))


async def test_queued_firings_run_one_after_the_other(rig: ScheduleRig) -> None:
    await rig.deploy(overlap="queue")
    host = FakeHost(run_seconds=None)

    async with rig.owned_by(host):
        await eventually(lambda: queued(rig))
        first = host.starts[0]
        host.run_seconds = 0.01
        host.end(f"c-{first.run_id}")
        await eventually(lambda: len(host.starts) >= 3)
        history = await eventually(lambda: enough(rig, 2))

    assert [run.cause for run in reversed(history)][:2] == ["schedule", "queue"]
    times = [run.scheduled_at for run in reversed(history)]
    assert times == sorted(times, key=str)


async def test_a_firing_replaces_the_run_before(rig: ScheduleRig) -> None:
    await rig.deploy(overlap="replace")
    host = FakeHost(run_seconds=None)

    async with rig.owned_by(host):
        await eventually(lambda: len(host.starts) >= 2)
        [run, *_] = reversed(await eventually(rig.history))

    assert run.reason == "replaced"


async def test_a_failed_run_is_tried_again_with_a_pause(rig: ScheduleRig) -> None:
    await rig.deploy(schedule=NEVER_SOON, retries=2, retryDelay=0.1)
    await due_now(rig)
    host = FakeHost(exit_codes=[1, 1, 0])

    async with rig.owned_by(host):
        history = await eventually(lambda: enough(rig, 3))
        state = await eventually(lambda: after_a_run(rig))

    assert [(run.attempt, run.reason) for run in reversed(history)] == [(1, "error"), (2, "error"), (3, "finished")]
    pauses = [later.at - earlier.at for earlier, later in zip(host.starts, host.starts[1:], strict=False)]
    assert pauses[0] >= 0.1
    assert pauses[1] >= 0.2
    assert state.entity.status["last_run"]["attempt"] == 3


async def test_a_run_that_takes_too_long_is_stopped(rig: ScheduleRig) -> None:
    await rig.deploy(schedule=NEVER_SOON, timeout=0.1)
    await due_now(rig)

    async with rig.owned_by(FakeHost(run_seconds=None)):
        [run] = await eventually(rig.history)

    assert run.reason == "timeout"
    assert "config.timeout" in (run.message or "")


async def test_an_engine_that_is_away_for_a_moment_costs_no_firing(rig: ScheduleRig) -> None:
    await rig.deploy(schedule=NEVER_SOON)
    await due_now(rig)
    host = FakeHost(faults=[EngineUnavailable("start", "no answer")])

    async with rig.owned_by(host):
        [run] = await eventually(rig.history)

    assert (run.reason, run.attempt, len(host.starts)) == ("finished", 1, 2)


async def test_error_of_the_owner_is_reported_and_not_retried(rig: ScheduleRig) -> None:
    await rig.deploy(schedule=NEVER_SOON, retries=5)
    await due_now(rig)

    async with rig.owned_by(FakeHost(faults=[CodeMissing("bots", "code.zip")])):
        [run] = await eventually(rig.history)
        status = (await eventually(lambda: after_a_run(rig))).entity.status

    assert (run.reason, status["state"]) == ("rejected", "rejected")
    assert "there is no code 'code.zip'" in status["detail"]


async def test_firings_missed_without_a_worker_are_run_once(rig: ScheduleRig) -> None:
    await rig.deploy(schedule="@every 100s")
    await rig.set("s", next_execution_time=int(time.time()) - 1030)
    host = FakeHost()

    async with rig.owned_by(host):
        [run] = await eventually(rig.history)
        state = await rig.state()

    assert run.cause == "misfire"
    assert state.next_at is not None
    assert state.next_at > time.time()
    assert len(host.starts) == 1


async def test_a_changed_expression_counts_at_once(rig: ScheduleRig) -> None:
    await rig.deploy(schedule=NEVER_SOON)
    host = FakeHost()

    async with rig.owned_by(host) as owner:
        await eventually(lambda: owner.scheduler.known)
        await rig.deploy(schedule="* * * * * *")
        owner.wake()
        await eventually(lambda: host.starts)

    assert {start.entity_id for start in host.starts} == {"s"}


async def test_an_update_that_leaves_the_expression_leaves_the_time(rig: ScheduleRig) -> None:
    await rig.deploy(schedule="@every 1000s")
    before = (await rig.state()).next_at

    await rig.deploy(schedule="@every 1000s", pair="ETH")

    assert (await rig.state()).next_at == before


async def test_a_bad_expression_is_refused_and_the_old_schedule_stays(rig: ScheduleRig) -> None:
    await rig.deploy(schedule="@daily")
    before = await rig.state()

    with pytest.raises(Permanent, match="31 does not exist"):
        await rig.deploy(schedule="0 0 31 2 *")

    assert (await rig.state()).entity.document == before.entity.document


async def test_invalid_document_of_an_older_runtime_reports_the_reason(rig: ScheduleRig) -> None:
    await rig.deploy(schedule="@daily")
    await rig.set("s", config__schedule="every day")

    async with rig.owned_by(FakeHost()):
        status = await eventually(lambda: status_of(rig, "rejected"))

    assert "number of fields is 2" in status["detail"]


async def test_a_document_of_an_older_runtime_runs_as_it_is(rig: ScheduleRig) -> None:
    old = {"id": "old", "segment_id": 1, "config": {"schedule": "* * * * * *"}, "custom": CUSTOM}
    await rig.collection.insert_one(old | {"next_execution_time": int(time.time()) - 100})

    async def has_finished() -> bool:
        return any(run.reason == "finished" for run in await rig.history("old"))

    async with rig.owned_by(FakeHost()):
        await eventually(has_finished)


async def test_a_paused_schedule_goes_on_in_time_without_a_run(rig: ScheduleRig) -> None:
    await rig.deploy()
    await rig.set("s", scheduler__paused={"by": "me"})
    host = FakeHost()
    first = (await rig.state()).next_at
    assert first is not None

    async with rig.owned_by(host):
        await eventually(lambda: next_after(rig, first))
        assert not host.starts
        await rig.collection.update_one({"id": "s"}, {"$unset": {"scheduler.paused": ""}})
        await eventually(lambda: host.starts)


async def test_triggered_run_begins_at_once(rig: ScheduleRig) -> None:
    await rig.deploy(schedule=NEVER_SOON)
    await rig.set("s", scheduler__trigger={"id": "w1", "requested_at": time.time()})
    host = FakeHost()

    async with rig.owned_by(host):
        [run] = await eventually(rig.history)
        state = await rig.state()

    assert (run.cause, state.trigger, len(host.starts)) == (Cause.MANUAL, None, 1)


async def test_a_kill_switch_ends_the_run_at_once(rig: ScheduleRig) -> None:
    await rig.deploy(schedule=NEVER_SOON)
    await due_now(rig)
    host = FakeHost(run_seconds=None)

    # Nothing but being woken can make it look.
    async with rig.owned_by(host, scan_seconds=3600) as owner:
        await eventually(lambda: host.containers)
        await rig.entities.holds.hold(HoldTarget.everything())
        owner.wake()
        [run] = await eventually(rig.history)

    assert run.reason == "killed"


async def test_kill_switch_ends_the_grace_of_a_run_that_is_being_stopped(rig: ScheduleRig) -> None:
    await rig.deploy(schedule=NEVER_SOON, timeout=0.5)
    await due_now(rig)
    host = FakeHost(run_seconds=None, stubborn=True)

    async with rig.owned_by(host) as owner:
        await eventually(lambda: host.graces)
        await rig.entities.holds.hold(HoldTarget.everything())
        owner.wake()
        [run] = await eventually(rig.history)

    assert host.graces["s"] == [30.0, 0.0]
    assert run.reason == "killed"


async def test_a_deleted_schedule_is_ended(rig: ScheduleRig) -> None:
    await rig.deploy(schedule=NEVER_SOON)
    await due_now(rig)
    host = FakeHost(run_seconds=None)

    async with rig.owned_by(host) as owner:
        await eventually(lambda: host.containers)
        await rig.entities.delete("s")
        owner.wake()
        await eventually(lambda: not host.containers)

    assert [run.reason for run in await rig.history()] == ["deleted"]


async def test_a_schedule_that_was_created_again_for_another_owner_is_left_to_that_one(rig: ScheduleRig) -> None:
    await rig.deploy(schedule=NEVER_SOON)
    at = int(time.time()) + 1000
    await rig.set("s", next_execution_time=at)
    host, now = FakeHost(), [time.time()]

    async with rig.owned_by(host, clock=lambda: now[0], scan_seconds=3600) as owner:
        await eventually(lambda: owner.scheduler.known)
        await rig.entities.delete("s")
        await rig.deploy(schedule=NEVER_SOON)
        await rig.set("s", next_execution_time=at, segment_id=2)
        now[0] = at
        owner.scheduler._pulse.set()
        await eventually(lambda: not owner.scheduler.known)

    state = await rig.state()
    assert (state.next_at, state.firing, host.starts) == (at, None, [])


async def due_now(rig: ScheduleRig, schedule_id: str = "s") -> None:
    await rig.set(schedule_id, next_execution_time=int(time.time()))


async def on_time(rig: ScheduleRig, host: FakeHost, number: int) -> bool:
    """Whether so many runs have begun within half a second of their times, and none before."""
    due = {run.run_id: run.scheduled_at.timestamp() for run in await rig.history() if run.scheduled_at is not None}
    late = [start.at - due[start.run_id] for start in host.starts if start.run_id in due]
    assert min(late, default=0.0) >= 0
    return sum(seconds < 0.5 for seconds in late) >= number


async def after_a_run(rig: ScheduleRig) -> ScheduleState:
    state = await rig.state()
    assert state.firing is None
    assert "last_run" in state.entity.status
    return state


async def enough(rig: ScheduleRig, number: int) -> list:  # type: ignore[type-arg]
    history = await rig.history()
    return history if len(history) >= number else []


async def queued(rig: ScheduleRig) -> bool:
    return len((await rig.state()).queued) >= 2


async def next_after(rig: ScheduleRig, first: int) -> bool:
    return ((await rig.state()).next_at or 0) > first


async def status_of(rig: ScheduleRig, state: str) -> dict:  # type: ignore[type-arg]
    status = (await rig.state()).entity.status
    return dict(status) if status.get("state") == state else {}
