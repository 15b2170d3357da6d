"""A load is a trapezoid: up, level, down."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tools.loadgen.load import Action, Kind, Load, steps

any_load = st.builds(
    Load,
    kind=st.sampled_from([Kind.BOTS, Kind.SCHEDULES]),
    run=st.just("r"),
    count=st.integers(1, 200),
    per_second=st.floats(0.01, 200),
    hold_seconds=st.floats(0, 1000),
)


@given(any_load)
def test_everything_that_is_made_is_removed_once_and_later(load: Load) -> None:
    planned = list(steps(load))
    made = {step.number: step.at_seconds for step in planned if step.action is Action.CREATE}
    removed = {step.number: step.at_seconds for step in planned if step.action is Action.REMOVE}

    assert len(planned) == 2 * load.count
    assert made.keys() == removed.keys() == set(range(load.count))
    assert all(removed[number] >= made[number] for number in made)


@given(any_load)
def test_events_are_in_order_and_no_closer_than_the_pace(load: Load) -> None:
    for action in Action:
        times = [step.at_seconds for step in steps(load) if step.action is action]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert all(abs(gap - 1 / load.per_second) < 1e-6 * max(1, times[-1]) for gap in gaps)


def test_backtests_end_by_themselves_and_are_not_removed() -> None:
    load = Load(Kind.BACKTESTS, "r", count=3, per_second=1, hold_seconds=10, run_seconds=2)

    assert {step.action for step in steps(load)} == {Action.CREATE}
    assert load.config()["run_seconds"] == 2


def test_schedules_have_expression_and_bots_run_until_stopped() -> None:
    assert Load(Kind.SCHEDULES, "r", 1, 1, 1, schedule="@hourly").config()["schedule"] == "@hourly"
    assert Load(Kind.BOTS, "r", 1, 1, 1).config()["run_seconds"] is None
