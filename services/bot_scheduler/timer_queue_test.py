from hypothesis import given
from hypothesis import strategies as st

from services.bot_scheduler.timer_queue import TimerQueue


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
