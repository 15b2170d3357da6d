from hypothesis import given
from hypothesis import strategies as st

from services.bot_scheduler.agenda import Agenda


def test_what_is_due_comes_out_once_the_earliest_first() -> None:
    agenda = Agenda()
    for name, at in (("c", 30.0), ("a", 10.0), ("b", 20.0)):
        agenda.put(name, at)

    assert (agenda.first(), agenda.count_until(20.0)) == (10.0, 2)
    assert agenda.take_until(20.0) == ["a", "b"]
    assert agenda.take_until(20.0) == []
    assert agenda.first() == 30.0


def test_a_new_time_replaces_the_old_one_and_none_removes_it() -> None:
    agenda = Agenda()
    agenda.put("a", 10.0)
    agenda.put("a", 5.0)
    agenda.put("b", 6.0)
    agenda.put("b", None)
    agenda.put("never", None)

    assert agenda.take_until(100.0) == ["a"]
    assert agenda.first() is None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.floats(0, 100))))
def test_it_holds_the_last_time_of_each(puts: list[tuple[str, float | None]]) -> None:
    agenda = Agenda()
    for name, at in puts:
        agenda.put(name, at)

    last = {name: at for name, at in puts if dict(puts)[name] == at}
    expected = {name: at for name, at in dict(puts).items() if at is not None}
    assert sorted(agenda.take_until(100)) == sorted(expected)
    assert last.keys() >= expected.keys()
