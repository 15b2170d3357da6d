from collections.abc import Mapping
from typing import Any

import pytest

from libs.core.store.entities import Entity
from libs.core.store.holds import Hold, Holds, HoldTarget
from services.bot_scheduler.cron import parse
from services.bot_scheduler.decide import MAX_QUEUED, Claim, Dropped, Wait, decide, latest_until, replaces
from services.bot_scheduler.ending import utc
from services.bot_scheduler.state import FIRED_AT, NEXT, QUEUED, TRIGGER, Cause, Firing, ScheduleState

# A full hour; schedules here fire each minute.
T = 1_700_002_800


def schedule(
    config: Mapping[str, object] | None = None, *, held: bool = False, next_at: int | None = T, **ours: Any
) -> ScheduleState:
    document = {"id": "s", "segment_id": 1, "revision": 3, "config": {"schedule": "* * * * *", **(config or {})}}
    document |= {"scheduler": ours} | ({NEXT: next_at} if next_at is not None else {})
    holds = Holds([Hold(HoldTarget.everything(), utc(0))] if held else [])
    return ScheduleState.of(Entity.of(document, holds))


def test_nothing_is_done_before_the_time() -> None:
    assert decide(schedule(), T - 0.5, busy=False, ahead_seconds=0.25) == Wait(T, ahead=True)


def test_a_firing_is_claimed_with_the_one_after_it() -> None:
    claim = decide(schedule(), T + 0.01, busy=False)

    assert claim == Claim({NEXT: T + 60, FIRED_AT: T}, fire=T)


def test_a_run_that_goes_on_is_in_the_way_only_when_the_next_firing_is_due() -> None:
    assert decide(schedule(), T - 0.2, busy=True, ahead_seconds=0.25) == Wait(T)


def test_a_firing_may_be_claimed_a_little_ahead_and_keeps_its_time() -> None:
    claim = decide(schedule(), T - 0.2, busy=False, ahead_seconds=0.25)

    assert claim == Claim({NEXT: T + 60, FIRED_AT: T}, fire=T)


def test_a_time_that_was_claimed_is_passed_by() -> None:
    claim = decide(schedule(fired_at=T), T - 0.1, busy=False, ahead_seconds=0.25)

    assert claim == Claim({NEXT: T + 60})


def test_a_schedule_without_a_next_time_gets_one() -> None:
    assert decide(schedule(next_at=None), T + 5, busy=False) == Claim({NEXT: T + 60})


def test_all_that_was_missed_is_made_up_for_once() -> None:
    claim = decide(schedule(), T + 3 * 60 + 20, busy=False)

    assert claim == Claim({NEXT: T + 240, FIRED_AT: T + 180}, fire=T + 180, cause=Cause.MISFIRE)


def test_missed_firing_is_skipped_if_config_requests_it() -> None:
    claim = decide(schedule({"misfire": "skip", "misfireGrace": 10}), T + 20, busy=False)

    assert claim == Claim({NEXT: T + 60, FIRED_AT: T}, drop=(T, Dropped.MISFIRE))


def test_within_the_grace_a_late_firing_is_run() -> None:
    claim = decide(schedule({"misfire": "skip", "misfireGrace": 30}), T + 20, busy=False)

    assert isinstance(claim, Claim)
    assert claim.fire == T


def test_the_latest_of_those_missed_counts_for_the_grace() -> None:
    claim = decide(schedule({"misfire": "skip", "misfireGrace": 30}), T + 60 * 600 + 20, busy=False)

    assert isinstance(claim, Claim)
    assert claim.fire == T + 60 * 600


def test_a_firing_while_a_run_goes_on_is_skipped() -> None:
    assert decide(schedule(), T, busy=True) == Claim({NEXT: T + 60, FIRED_AT: T}, drop=(T, Dropped.OVERLAP))


def test_or_waits_in_the_queue_behind_those_before() -> None:
    claim = decide(schedule({"overlap": "queue"}, queued=[T - 60]), T, busy=True)

    assert claim == Claim({NEXT: T + 60, FIRED_AT: T, QUEUED: [T - 60, T]})


def test_a_queue_does_not_grow_without_bounds() -> None:
    claim = decide(schedule({"overlap": "queue"}, queued=list(range(MAX_QUEUED))), T, busy=True)

    assert isinstance(claim, Claim)
    assert claim.drop == (T, Dropped.OVERLAP)


def test_or_replaces_the_run_and_what_waited_behind_it() -> None:
    claim = decide(schedule({"overlap": "replace"}, queued=[T - 60]), T, busy=True)

    assert claim == Claim({NEXT: T + 60, FIRED_AT: T, QUEUED: [T]})


def test_what_waits_to_replace_a_run_ends_an_earlier_one_and_no_other() -> None:
    waiting = schedule({"overlap": "replace"}, queued=[T])

    assert replaces(waiting, Firing(T - 60, "before"))
    assert not replaces(waiting, Firing(T, "itself"))
    assert not replaces(schedule({"overlap": "queue"}, queued=[T]), Firing(T - 60, "before"))


def test_what_waited_is_fired_one_after_the_other() -> None:
    assert decide(schedule(queued=[T - 120, T - 60]), T - 1, busy=False) == Claim(
        {QUEUED: [T - 60]}, fire=T - 120, cause=Cause.QUEUE
    )
    assert decide(schedule(queued=[T - 60]), T - 1, busy=False) == Claim({QUEUED: None}, fire=T - 60, cause=Cause.QUEUE)


WISH = {"id": "w", "requested_at": T - 30.5}


def test_run_may_be_triggered_at_any_time() -> None:
    for config, ours in (({}, {}), ({"enabled": False}, {}), ({}, {"paused": True})):
        claim = decide(schedule(config, trigger=WISH, **ours), T - 30, busy=False)
        assert claim == Claim({TRIGGER: None}, fire=T - 31, cause=Cause.MANUAL)


def test_a_persons_wish_waits_for_the_run_that_goes_on() -> None:
    assert decide(schedule(trigger=WISH), T - 30, busy=True) == Wait(T)


def test_a_kill_switch_is_above_a_persons_wish() -> None:
    assert decide(schedule(trigger=WISH, held=True), T - 30, busy=False) == Wait(T)


@pytest.mark.parametrize(
    "down",
    [schedule({"enabled": False}), schedule({"enabled": "0"}), schedule(paused=True), schedule(held=True)],
)
def test_time_goes_on_for_a_schedule_that_must_not_run(down: ScheduleState) -> None:
    assert decide(down, T - 1, busy=False) == Wait(T)
    assert decide(down, T + 65, busy=False) == Claim({NEXT: T + 120})


def test_what_waited_is_given_up_when_a_schedule_is_paused() -> None:
    assert decide(schedule(paused=True, queued=[T - 60]), T + 1, busy=False) == Claim({NEXT: T + 60, QUEUED: None})


def test_a_schedule_that_cannot_be_read_waits_for_its_owner() -> None:
    broken = schedule({"schedule": "0 0 31 2 *"})

    assert decide(broken, T + 5, busy=False) == Wait()
    assert "31 does not exist" in broken.problem


def test_a_beat_keeps_its_rhythm_over_missed_firings() -> None:
    claim = decide(schedule({"schedule": "@every 90s"}), T + 200, busy=False)

    assert claim == Claim({NEXT: T + 270, FIRED_AT: T + 180}, fire=T + 180, cause=Cause.MISFIRE)


@pytest.mark.parametrize(
    ("expression", "first", "now", "latest"),
    [
        ("* * * * * *", T, T + 1_000_000.5, T + 1_000_000),
        ("@every 7s", T, T + 7 * 10 + 3, T + 70),
        ("0 0 1 1 *", 1_577_836_800, 1_700_000_000, 1_672_531_200),
        ("0 0 29 2 *", 1_582_934_400, 1_700_000_000, 1_582_934_400),
        ("* * * * *", T, T - 5, T),
    ],
)
def test_the_latest_firing_is_found_however_many_were_missed(
    expression: str, first: int, now: float, latest: int
) -> None:
    assert latest_until(parse(expression), first, now) == latest


@pytest.mark.parametrize(
    "idle",
    [
        schedule({"overlap": "replace"}),
        schedule({"overlap": "replace"}, queued=[T], paused=True),
        schedule({"overlap": "replace", "enabled": False}, queued=[T]),
        schedule({"overlap": "replace", "schedule": "nonsense"}, queued=[T]),
    ],
    ids=["nothing waits", "paused", "disabled", "invalid"],
)
def test_run_is_not_replaced_by_what_will_not_run(idle: ScheduleState) -> None:
    assert replaces(idle, Firing(T - 60, "before")) is False


def test_beat_that_is_claimed_a_little_ahead_keeps_its_time() -> None:
    assert latest_until(parse("@every 60s"), T, T - 0.2) == T


@pytest.mark.parametrize(("late_seconds", "cause"), [(5.0, Cause.SCHEDULE), (5.1, Cause.MISFIRE)])
def test_firing_is_a_misfire_when_it_is_more_than_5_seconds_late(late_seconds: float, cause: Cause) -> None:
    claim = decide(schedule(), T + late_seconds, busy=False)

    assert isinstance(claim, Claim)
    assert claim.cause is cause
