"""Each check, on timelines made for it: one that holds, and those that it must refuse."""

from dataclasses import replace

import pytest

from tests.chaos.checks import (
    CHECKS,
    agreement,
    blocked_times,
    bot_count,
    gaps,
    metrics_stored,
    no_event_lost,
    nothing_stray,
    one_notification_per_backtest,
    one_outcome_per_backtest,
    one_run_per_firing,
    recovery,
    state_kept,
    two_live_copies,
)
from tests.chaos.synthetic import GOOD, WORKERS, copy
from tests.chaos.timeline import Completion, Copy, FaultSpan, Published, RunView, Slowness, State, Timeline


@pytest.mark.parametrize("name", CHECKS)
def test_run_without_a_fault_of_the_system_passes_each_check(name: str) -> None:
    assert CHECKS[name](GOOD) == []


@pytest.mark.parametrize(
    ("begin", "end", "engine"), [(49.9, 60, "e2"), (10, 20, "e2"), (10, 20, "e1"), (49.95, 50.01, "e1")]
)
def test_copy_that_begins_before_another_has_ended_is_reported(begin: float, end: float, engine: str) -> None:
    copies = (copy("b1", "c1", 1, 50), Copy("b1", "c2", engine, (begin, end)))

    [violation] = two_live_copies(replace(GOOD, copies=copies))

    assert violation.startswith("b1: c1 on e1 and c2")


def test_copy_that_ticks_once_more_after_a_pause_is_reported() -> None:
    paused = Copy("b1", "c1", "e1", (1.0, 2.0, 30.0))

    assert two_live_copies(replace(GOOD, copies=(paused, copy("b1", "c2", 20, 40)))) != []


def test_short_copy_inside_a_long_one_does_not_hide_a_third_one() -> None:
    copies = (copy("b1", "c1", 0, 50), copy("b1", "c2", 10, 11), copy("b1", "c3", 40, 45))

    assert len(two_live_copies(replace(GOOD, copies=copies))) == 2


def test_copies_of_different_bots_at_one_time_are_no_violation() -> None:
    assert two_live_copies(replace(GOOD, copies=(copy("b1", "c1", 0, 50), copy("b2", "c2", 0, 50)))) == []


def late(began: float, *faults: FaultSpan, until: float = 100.0) -> Timeline:
    """A bot that is down from 50 to *began*."""
    copies = (copy("b1", "c1", 1, 50), copy("b1", "c2", began, until, engine="e2"))
    return replace(GOOD, copies=copies, faults=faults)


@pytest.mark.parametrize(("began", "count"), [(59.9, 0), (60.1, 1), (75.0, 1)])
def test_bot_that_is_down_for_more_than_the_limit_is_reported(began: float, count: int) -> None:
    assert len(recovery(late(began))) == count


def test_limit_on_recovery_is_an_argument() -> None:
    assert recovery(late(75.0), limit_seconds=30.0) == []


@pytest.mark.parametrize(
    "fault",
    [
        FaultSpan("no primary", 50, 70, blocks=True),
        FaultSpan("all workers killed", 50, 70, WORKERS),
    ],
)
def test_time_without_a_healthy_worker_does_not_count(fault: FaultSpan) -> None:
    assert recovery(late(79.0, fault)) == []
    assert len(recovery(late(81.0, fault))) == 1


def test_fault_of_one_of_two_workers_excuses_no_delay() -> None:
    assert len(recovery(late(75.0, FaultSpan("w1 killed", 50, 75, frozenset({"w1"}))))) == 1


def test_two_faults_that_leave_no_worker_excuse_the_time_of_both() -> None:
    first = FaultSpan("w1 killed", 49, 75, frozenset({"w1"}))
    second = FaultSpan("w2 killed", 51, 66, frozenset({"w2"}))

    assert blocked_times(replace(GOOD, faults=(first, second))) == [(51, 66)]
    assert recovery(late(75.0, first, second)) == []


def test_adjacent_blocked_times_are_one() -> None:
    faults = (FaultSpan("a", 10, 20, blocks=True), FaultSpan("b", 15, 30, blocks=True))

    assert blocked_times(replace(GOOD, faults=faults)) == [(10, 30)]


def test_longest_stretch_with_a_worker_counts_and_not_the_sum() -> None:
    blocked = [FaultSpan("no primary", at, at + 4, blocks=True) for at in (55, 64, 73)]

    [gap] = gaps(late(85.0, *blocked))

    assert gap.seconds == pytest.approx(35.0)
    assert gap.countable_seconds == pytest.approx(8.0)


def test_bot_that_never_starts_or_never_comes_back_is_reported() -> None:
    assert len(recovery(replace(GOOD, copies=()))) == 1
    assert len(recovery(replace(GOOD, copies=(copy("b1", "c1", 1, 50),)))) == 1


def test_bot_outside_its_watched_time_has_no_gap() -> None:
    assert gaps(replace(GOOD, copies=(copy("b1", "c1", 1, 50),), watched={"b1": (2.0, 49.0)})) == []


@pytest.mark.parametrize(
    "state",
    [
        replace(GOOD.settled, live={}),
        replace(GOOD.settled, live={"b1": ("c2", "c9")}),
        replace(GOOD.settled, live={"b1": ("c2",), "b9": ("c9",)}),
        replace(GOOD.settled, open_runs=()),
        replace(GOOD.settled, open_runs=(RunView("r3", "b1", "c8", True),)),
        replace(GOOD.settled, open_runs=(*GOOD.settled.open_runs, RunView("r4", "b1", "c2", True))),
        replace(GOOD.settled, open_runs=(*GOOD.settled.open_runs, RunView("r4", "b9", "c2", True))),
    ],
    ids=["not running", "two", "without document", "no record", "other record", "two records", "record of another"],
)
def test_disagreement_of_documents_records_and_engines_is_reported(state: State) -> None:
    assert agreement(replace(GOOD, settled=state)) != []


@pytest.mark.parametrize(("counted", "present"), [({"p": 2}, {"p": 1}), ({}, {"p": 1}), ({"p": 1}, {})])
def test_wrong_bot_count_is_reported(counted: dict[str, int], present: dict[str, int]) -> None:
    assert len(bot_count(replace(GOOD, settled=replace(GOOD.settled, counted=counted, present=present)))) == 1


def test_container_that_is_left_is_reported() -> None:
    assert nothing_stray(replace(GOOD, leftovers=("b1 on e2",))) == ["left over: b1 on e2"]


def test_second_run_of_a_firing_is_reported() -> None:
    firings = (*GOOD.firings, RunView("r9", "s1", "c9", False, "12:00"))

    assert len(one_run_per_firing(replace(GOOD, firings=firings))) == 1


def test_same_time_of_another_schedule_is_no_second_run() -> None:
    assert one_run_per_firing(replace(GOOD, firings=(*GOOD.firings, RunView("r9", "s2", "c9", False, "12:00")))) == []


def test_run_that_no_firing_records_is_reported() -> None:
    assert len(one_run_per_firing(replace(GOOD, copies=(*GOOD.copies, copy("s1", "c8", 12, 13))))) == 1


@pytest.mark.parametrize(("records", "count"), [(1, 1), (2, 0)])
def test_record_without_a_container_accounts_for_one_run(records: int, count: int) -> None:
    copies = (*GOOD.copies, copy("s1", "c8", 12, 13), copy("s1", "c9", 14, 15))
    unnamed = tuple(RunView(f"r{number}", "s1", "", False, f"13:0{number}") for number in range(records))

    found = one_run_per_firing(replace(GOOD, copies=copies, firings=(*GOOD.firings, *unnamed)))

    assert len(found) == count


@pytest.mark.parametrize(
    "completions",
    [
        (),
        (Completion(40, "t1", "ok", True), Completion(41, "t1", "failed", True)),
        (Completion(40, "t1", "ok", False),),
        (*GOOD.completions, Completion(40, "t9", "ok", False)),
    ],
    ids=["none", "two outcomes", "not stored", "of another"],
)
def test_backtest_without_one_stored_outcome_is_reported(completions: tuple[Completion, ...]) -> None:
    assert len(one_outcome_per_backtest(replace(GOOD, completions=completions))) == 1


@pytest.mark.parametrize(
    "event",
    [
        Published(60, "updated", "b1", 2),
        Published(60, "deleted", "b1"),
        Published(60, "created", "b2", 3),
    ],
)
def test_acknowledged_event_without_effect_is_reported(event: Published) -> None:
    assert len(no_event_lost(replace(GOOD, published=(event, *GOOD.published)))) == 1


@pytest.mark.parametrize(("factor", "count"), [(1.0, 1), (2.4, 1), (2.6, 0)])
def test_slow_machine_has_proportionally_more_time(factor: float, count: int) -> None:
    before = [Slowness(at / 2, 10.0) for at in range(98)]
    meanwhile = [Slowness(at / 2, factor) for at in range(100, 151)]

    assert len(recovery(replace(late(75.0), slowness=(*before, *meanwhile)))) == count


def test_slow_machine_excuses_no_second_copy() -> None:
    copies = (copy("b1", "c1", 1, 50), copy("b1", "c2", 49.9, 60))

    slow = replace(GOOD, copies=copies, slowness=tuple(Slowness(float(at), 10.0) for at in range(100)))

    assert len(two_live_copies(slow)) == 1


_KILLED = FaultSpan("worker killed", 40, 55, frozenset({"w1"}))
_MEASURED = tuple(Slowness(at / 2, 1.0) for at in range(200))


def counting(restored: int, *faults: FaultSpan, ended: float = 50.0) -> Timeline:
    """A bot that counts ten times a second from 0 at 0 s to *ended*, and begins with *restored* again."""
    copies = (copy("b1", "c1", 0, ended, restored=0), copy("b1", "c2", 60, 90, restored=restored))
    return replace(GOOD, copies=copies, faults=faults, slowness=_MEASURED)


@pytest.mark.parametrize(("restored", "count"), [(501, 0), (500, 1), (0, 1)])
def test_state_of_a_bot_that_stops_without_a_fault_is_complete(restored: int, count: int) -> None:
    assert len(state_kept(counting(restored))) == count


@pytest.mark.parametrize(("restored", "count"), [(501, 0), (341, 0), (339, 1), (0, 1)])
@pytest.mark.parametrize("ended", [50.0, 60.5])
def test_fault_may_cost_the_state_of_its_time_and_of_some_seconds_before(
    restored: int, count: int, ended: float
) -> None:
    assert len(state_kept(counting(restored, _KILLED, ended=ended))) == count


def test_faults_one_after_another_may_cost_the_state_of_all_their_time() -> None:
    earlier = FaultSpan("S3 frozen", 20, 38, blocks=True)

    assert state_kept(counting(141, _KILLED, earlier)) == []
    assert len(state_kept(counting(139, _KILLED, earlier))) == 1


def test_copy_that_begins_with_less_than_the_one_before_it_is_reported() -> None:
    whole = FaultSpan("all", 0, 100, blocks=True)
    third = copy("b1", "c3", 95, 99, restored=299)

    good = counting(300, whole)

    assert state_kept(good) == []
    [violation] = state_kept(replace(good, copies=(*good.copies, third)))
    assert "c3 on e1 began at 95.0 s with the count 299" in violation


def test_slow_machine_has_more_time_to_save_state() -> None:
    slow = tuple(Slowness(at / 2, 5.0) for at in range(200))

    assert state_kept(replace(counting(210), slowness=slow)) == []
    assert len(state_kept(replace(counting(190), slowness=slow))) == 1


@pytest.mark.parametrize("notified", [(), ("t1", "t1"), ("t2",)])
def test_backtest_that_is_not_reported_once_is_a_violation(notified: tuple[str, ...]) -> None:
    assert len(one_notification_per_backtest(replace(GOOD, notified=notified))) == 1


@pytest.mark.parametrize(("stored", "count"), [({}, 1), ({"b1": 400.0}, 1), ({"b1": 610.0}, 0)])
def test_metric_that_is_not_stored_after_the_last_fault_is_reported(stored: dict[str, float], count: int) -> None:
    timeline = counting(501, _KILLED)

    assert len(metrics_stored(replace(timeline, settled=State(metrics=stored)))) == count


def test_bot_that_has_not_counted_since_the_last_fault_is_not_settled() -> None:
    timeline = replace(counting(501, _KILLED), copies=(copy("b1", "c1", 0, 50, restored=0),))

    assert len(metrics_stored(replace(timeline, settled=State(metrics={"b1": 1e9})))) == 1
