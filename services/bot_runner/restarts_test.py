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


def test_a_bot_that_its_owner_must_mend_waits_the_longest_but_not_for_ever() -> None:
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
