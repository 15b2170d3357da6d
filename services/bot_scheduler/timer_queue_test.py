import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bot_scheduler.timer_queue import DecisionTimes, TimerQueue


def test_what_is_due_comes_out_once_the_earliest_first() -> None:
    timers = TimerQueue()
    for name, at in (("c", 30.0), ("a", 10.0), ("b", 20.0)):
        timers.put(name, at)

    assert (timers.first(), timers.count_until(20.0)) == (10.0, 2)
    assert timers.take_until(20.0) == ["a", "b"]
    assert timers.take_until(20.0) == []
    assert timers.first() == 30.0


def test_a_new_time_replaces_the_old_one_and_none_removes_it() -> None:
    timers = TimerQueue()
    timers.put("a", 10.0)
    timers.put("a", 5.0)
    timers.put("b", 6.0)
    timers.put("b", None)
    timers.put("never", None)

    assert timers.take_until(100.0) == ["a"]
    assert timers.first() is None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.floats(0, 100))))
def test_it_holds_the_last_time_of_each(puts: list[tuple[str, float | None]]) -> None:
    timers = TimerQueue()
    for name, at in puts:
        timers.put(name, at)

    last = {name: at for name, at in puts if dict(puts)[name] == at}
    expected = {name: at for name, at in dict(puts).items() if at is not None}
    assert sorted(timers.take_until(100)) == sorted(expected)
    assert last.keys() >= expected.keys()


# --- decisions and claims

T = 1000.0


def times(*, exact: int = 0, claims: int = 0) -> DecisionTimes:
    found = DecisionTimes()
    for number in range(exact):
        found.put(f"e{number}", T)
    for number in range(claims):
        found.put(f"c{number}", T, ahead=True)
    return found


@pytest.mark.parametrize(("claims", "seconds"), [(0, 0.0), (1, 0.052), (100, 0.25), (975, 2.0), (10_000, 2.0)])
def test_claims_are_made_earlier_the_more_are_due_together(claims: int, seconds: float) -> None:
    found = times(claims=claims)
    assert found.ahead_seconds(T - 10) == pytest.approx(seconds)
    assert found.first(T - 10) == (pytest.approx(T - seconds) if claims else None)


def test_claims_that_are_due_later_are_not_counted() -> None:
    found = times(claims=100)
    found.put("later", T + 1, ahead=True)
    assert found.ahead_seconds(T - 10) == pytest.approx(0.25)
    assert found.ahead_seconds(T + 1) == pytest.approx(0.252)


def test_decision_that_is_no_claim_is_never_made_ahead_of_its_time() -> None:
    found = times(exact=1, claims=500)
    assert found.take(T - 0.01, 2.0, 1000) == [f"c{number}" for number in sorted(range(500), key=str)]
    assert (found.first(T - 0.01), found.take(T - 0.01, 2.0, 1000)) == (T, [])
    assert found.take(T, 0.0, 1000) == ["e0"]


def test_no_more_than_the_maximum_are_taken() -> None:
    found = times(exact=3, claims=3)
    assert found.take(T, 0.0, 4) == ["e0", "e1", "e2", "c0"]
    assert found.take(T, 0.0, 4) == ["c1", "c2"]


@pytest.mark.parametrize("ahead", [True, False])
def test_later_put_replaces_an_earlier_one_of_either_kind(ahead: bool) -> None:
    found = DecisionTimes()
    found.put("s", T, ahead=not ahead)
    found.put("s", T + 5, ahead=ahead)
    assert found.take(T + 1, 0.0, 10) == []
    assert found.take(T + 5, 0.0, 10) == ["s"]
    found.put("s", T, ahead=ahead)
    found.put("s", None)
    assert found.first(T) is None
