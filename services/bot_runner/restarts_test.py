import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bot_runner.restarts import RestartHistory, RestartPolicy

POLICY = RestartPolicy()


def test_the_delay_doubles_from_one_second_up_to_five_minutes() -> None:
    history = RestartHistory()
    delays = []
    for _ in range(11):
        history = history.after_death(ran_seconds=0.1, now=1000.0, policy=POLICY)
        delays.append(history.not_before - 1000.0)

    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_ten_minutes_up_forgive_earlier_deaths() -> None:
    worn = RestartHistory(failures=9, restarts=9, not_before=0.0)

    history = worn.after_death(ran_seconds=600.0, now=50.0, policy=POLICY)

    assert history == RestartHistory(failures=1, restarts=10, not_before=51.0)


def test_rejected_bot_waits_for_the_maximum_delay_and_is_tried_again() -> None:
    history = RestartHistory().after_rejection(now=10.0, policy=POLICY)

    assert not history.may_start(309.9)
    assert history.may_start(310.0)


@given(st.lists(st.floats(min_value=0, max_value=1e6), max_size=50), st.floats(min_value=0, max_value=1e9))
def test_a_delay_is_never_shorter_than_the_first_nor_longer_than_the_cap(runs: list[float], now: float) -> None:
    history = RestartHistory()
    for ran in runs:
        history = history.after_death(ran_seconds=ran, now=now, policy=POLICY)
        assert now + POLICY.initial_seconds <= history.not_before <= now + POLICY.cap_seconds


def test_a_thousand_deaths_overflow_nothing() -> None:
    history = RestartHistory(failures=5000)

    assert history.after_death(ran_seconds=0, now=0.0, policy=POLICY).not_before == 300.0


def test_just_under_ten_minutes_up_forgive_nothing() -> None:
    history = RestartHistory(failures=2).after_death(ran_seconds=599.9, now=50.0, policy=POLICY)

    assert history == RestartHistory(failures=3, restarts=1, not_before=54.0)


def test_death_of_one_run_counts_once() -> None:
    once = RestartHistory().after_death(ran_seconds=1.0, now=10.0, policy=POLICY, run_id="r1")

    assert once == RestartHistory(failures=1, restarts=1, not_before=11.0, counted_run="r1")
    assert once.after_death(ran_seconds=1.0, now=99.0, policy=POLICY, run_id="r1") == once


def test_death_of_a_run_that_did_not_begin_counts_each_time_and_keeps_the_run_before() -> None:
    history = RestartHistory(failures=1, restarts=1, counted_run="r1")
    for _ in range(2):
        history = history.after_death(ran_seconds=0.0, now=10.0, policy=POLICY)

    assert history == RestartHistory(failures=3, restarts=3, not_before=14.0, counted_run="r1")


def test_rejection_counts_as_a_failure_and_not_as_a_restart() -> None:
    history = RestartHistory(failures=1, restarts=4, counted_run="r1").after_rejection(now=10.0, policy=POLICY)

    assert history == RestartHistory(failures=2, restarts=4, not_before=310.0, counted_run="r1")


def test_bot_that_its_owner_changed_starts_at_once_with_its_restarts_kept() -> None:
    history = RestartHistory(failures=9, restarts=12, not_before=1e12, counted_run="r1").forgiven()

    assert history == RestartHistory(failures=0, restarts=12, not_before=0.0, counted_run="r1")
    assert history.may_start(0.0)


@pytest.mark.parametrize(
    ("ahead_seconds", "may_start"), [(300.0, False), (305.0, False), (306.0, True), (3600.0, True)]
)
def test_backoff_longer_than_any_was_written_by_a_wrong_clock_and_does_not_count(
    ahead_seconds: float, may_start: bool
) -> None:
    assert RestartHistory(failures=20, not_before=1000.0 + ahead_seconds).may_start(1000.0) is may_start


def test_bot_that_never_failed_starts_at_once() -> None:
    assert RestartHistory().may_start(0.0)
