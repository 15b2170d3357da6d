"""Events in any order, any number of times, give the result of the order of publishing."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.core.store.history import EntityEvent, EventKind, History, Stamp
from tests.support.rigs.published_events import SECOND, START, event


def created(position: int, **changes: Any) -> EntityEvent:
    return event(EventKind.CREATED, position, **{"stream": 1, **changes})


def updated(position: int, **changes: Any) -> EntityEvent:
    return event(EventKind.UPDATED, position, **{"stream": 1, **changes})


def deleted(position: int, **changes: Any) -> EntityEvent:
    return event(EventKind.DELETED, position, **{"stream": 1, **changes})


def outcome(events: Sequence[EntityEvent]) -> object:
    history = History()
    for one in events:
        history = history.after(one)
    return None if history.current is None else history.current.content


def published_outcome(events: Sequence[EntityEvent]) -> object:
    """What a reader that sees each event once and in order would hold."""
    state: object = None
    for one in events:
        if one.kind is EventKind.DELETED:
            state = None
        elif one.kind is EventKind.UPDATED or state is None:
            state = one.content
    return state


@st.composite
def published(draw: st.DrawFn) -> list[EntityEvent]:
    """Events in the order of publishing, over streams that are deleted and made again in between."""
    events: list[EntityEvent] = []
    published_at, stream, sequence = START, START, 0
    for kind in draw(st.lists(st.sampled_from(EventKind), min_size=1, max_size=7)):
        published_at += draw(st.integers(min_value=1001, max_value=3 * SECOND))
        if draw(st.integers(0, 4)) == 0:
            stream, sequence = published_at - 1, 0
        sequence += 1
        lag = draw(st.sampled_from([1, 500, 1000]))
        stamp = Stamp.of(
            published_at,
            made_at=None if kind is EventKind.DELETED or draw(st.integers(0, 9)) == 0 else published_at - lag,
            stream=stream,
            sequence=sequence,
        )
        content = {} if kind is EventKind.DELETED else {"config": {"n": len(events)}, "custom": {}}
        events.append(EntityEvent("x", kind, stamp, content))
    return events


@given(published(), st.data())
@settings(max_examples=400, deadline=None)
def test_any_order_and_any_repeats_give_the_state_of_the_order_of_publishing(
    events: list[EntityEvent], data: st.DataObject
) -> None:
    repeated = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=5))))
    assert outcome(repeated) == published_outcome(events)


@pytest.mark.parametrize(
    "events",
    [
        [created(1), created(2), deleted(3)],
        [created(1), deleted(2), created(3), created(4)],
        [created(1), created(2), deleted(3), created(4), updated(5)],
        [updated(1), deleted(2), created(3)],
        [created(1), deleted(2), created(3), deleted(4)],
    ],
)
def test_every_order_of_these_converges(events: list[EntityEvent]) -> None:
    outcomes = [outcome(order) for order in permutations(events)]
    assert outcomes == [published_outcome(events)] * len(outcomes)


def test_an_ordinary_history_remembers_one_version() -> None:
    history = History()
    for one in [created(1), updated(2), updated(3), updated(2), created(1)]:
        history = history.after(one)
    assert len(history.versions) == 1


def test_an_old_update_published_again_changes_nothing() -> None:
    first, second = updated(1), updated(2)
    again = updated(3, made_at=first.stamp.made_at)
    assert outcome([first, second, again]) == second.content


def test_the_time_in_the_event_beats_the_order_of_publishing() -> None:
    later_made = updated(1, made_at=START + 500)
    earlier_made = updated(2, made_at=START + 100)
    assert outcome([later_made, earlier_made]) == outcome([earlier_made, later_made]) == later_made.content


def test_later_update_in_stream_wins_for_equal_times() -> None:
    events = [updated(1, made_at=START), updated(2, made_at=START)]
    assert outcome(events) == outcome(events[::-1]) == events[1].content


def test_an_old_creation_published_again_after_the_deletion_raises_nothing() -> None:
    first = created(1)
    again = created(3, made_at=first.stamp.made_at)
    assert outcome([first, deleted(2), again]) is None


def test_a_new_creation_after_the_deletion_counts_though_its_time_is_written_in_whole_seconds() -> None:
    deletion = deleted(2, published_at=START + SECOND // 2)
    again = EntityEvent(
        "x",
        EventKind.CREATED,
        Stamp.of(START + SECOND * 6 // 10, made_at=START, precision=SECOND, stream=1, sequence=3),
        {"config": {}, "custom": {}},
    )
    assert outcome([deletion, again]) == again.content


def test_a_deletion_wins_over_an_earlier_update_made_by_a_clock_that_runs_ahead() -> None:
    ahead = updated(1, made_at=START + 120 * SECOND)
    assert outcome([ahead, deleted(2)]) is None


def test_a_time_in_the_far_future_does_not_outlive_later_updates() -> None:
    nonsense = updated(1, made_at=START + 10**6 * SECOND)
    right = updated(2)
    assert outcome([nonsense, right]) == right.content


def test_sequences_of_a_stream_made_again_are_not_compared_with_the_old_ones() -> None:
    old = updated(90, published_at=START, stream=1)
    deletion = deleted(1, published_at=START + SECOND, stream=2)
    new = created(2, published_at=START + 2 * SECOND, stream=2)
    assert outcome([old, deletion]) is None
    assert outcome([deletion, new, old]) == new.content


def test_within_one_stream_the_sequence_decides_when_the_servers_clock_steps_back() -> None:
    first = updated(1, published_at=START + SECOND, made_at=START)
    deletion = deleted(2, published_at=START + SECOND // 2)
    assert outcome([first, deletion]) is None


def test_a_direct_event_comes_after_all_that_is_known_though_its_clock_is_behind() -> None:
    for kind in (EventKind.DELETED, EventKind.UPDATED):
        content = {} if kind is EventKind.DELETED else {"config": {"n": 0}, "custom": {}}
        direct = EntityEvent("x", kind, Stamp.of(START - 3600 * SECOND), content, direct=True)
        assert outcome([created(1), updated(2), direct]) == (content or None)
        assert outcome([created(1), updated(2), direct, updated(2), created(1)]) == (content or None)


def test_a_direct_creation_after_a_deletion_counts_though_its_clock_is_behind() -> None:
    content: dict[str, object] = {"config": {}, "custom": {}}
    again = EntityEvent("x", EventKind.CREATED, Stamp.of(START - 3600 * SECOND), content, direct=True)
    assert outcome([created(1), deleted(2), again]) == content


@pytest.mark.parametrize("made_at", [START - 3600 * SECOND, START + 120 * SECOND], ids=["behind", "ahead"])
@pytest.mark.parametrize("known_kind", [EventKind.CREATED, EventKind.UPDATED])
@pytest.mark.parametrize("kind", [EventKind.DELETED, EventKind.UPDATED])
def test_direct_event_comes_after_one_whose_time_is_coarse_and_wrong(
    kind: EventKind, known_kind: EventKind, made_at: int
) -> None:
    stamp = Stamp.of(START + 5000, made_at=made_at, precision=SECOND, stream=1, sequence=5)
    known = EntityEvent("x", known_kind, stamp, {"config": {"n": 5}, "custom": {}})
    content = {} if kind is EventKind.DELETED else {"config": {"n": 0}, "custom": {}}
    direct = EntityEvent("x", kind, Stamp.of(START - 7200 * SECOND), content, direct=True)
    assert outcome([known, direct]) == (content or None)
    assert outcome([known, direct, known]) == (content or None)


@pytest.mark.parametrize("kind", [EventKind.DELETED, EventKind.UPDATED])
def test_direct_event_comes_after_the_creation_that_followed_a_deletion(kind: EventKind) -> None:
    content = {} if kind is EventKind.DELETED else {"config": {"n": 0}, "custom": {}}
    direct = EntityEvent("x", kind, Stamp.of(START - 3600 * SECOND), content, direct=True)
    assert outcome([created(1), deleted(2), created(3), direct]) == (content or None)


def test_direct_event_keeps_its_own_time_when_that_is_the_latest() -> None:
    history = History().after(created(1))
    direct = Stamp.of(START + 3600 * SECOND)
    assert history.following(direct).published_at == direct.published_at


def recreated(position: int, behind_seconds: float) -> EntityEvent:
    """A creation whose producer's clock is behind by so much; events are a second apart."""
    return created(
        position, published_at=START + position * SECOND, made_at=START + int((position - behind_seconds) * SECOND)
    )


FIRST = created(1, published_at=START + SECOND)
DELETION = deleted(10, published_at=START + 10 * SECOND)


@pytest.mark.parametrize("behind_seconds", [1.5, 2.0, 5.9])
def test_creation_after_a_deletion_counts_though_its_producers_clock_is_behind(behind_seconds: float) -> None:
    again = recreated(11, behind_seconds)
    for order in (
        [FIRST, DELETION, again],
        [FIRST, again, DELETION],
        [DELETION, FIRST, again],
        [again, FIRST, DELETION],
    ):
        assert outcome(order) == outcome([*order, *order]) == again.content


def test_version_without_a_time_of_its_own_does_not_hide_that_a_creation_is_newer() -> None:
    stamp = Stamp.of(START + 2 * SECOND, stream=1, sequence=2)
    timeless = EntityEvent("x", EventKind.UPDATED, stamp, {"config": {"n": 2}, "custom": {}})
    again = recreated(11, 2.0)
    assert outcome([FIRST, timeless, DELETION, again]) == again.content


def test_creation_after_a_deletion_is_dropped_if_its_time_is_further_behind_than_the_tolerance() -> None:
    assert outcome([FIRST, DELETION, recreated(11, 6.1)]) is None


def test_event_made_before_the_deletion_and_published_again_after_it_raises_nothing_in_any_order() -> None:
    last = updated(8, published_at=START + 8 * SECOND)
    again = updated(11, published_at=START + 11 * SECOND, made_at=last.stamp.made_at)
    older = updated(12, published_at=START + 12 * SECOND, made_at=last.stamp.made_at - SECOND)
    for order in permutations([last, DELETION, again, older]):
        assert outcome(order) is None


def test_deletion_remembers_the_latest_version_before_it_over_later_deletions() -> None:
    ahead = updated(8, published_at=START + 8 * SECOND, made_at=START + 15 * SECOND)
    second = deleted(11, published_at=START + 11 * SECOND)
    again = updated(12, published_at=START + 12 * SECOND, made_at=START + 9 * SECOND)
    assert outcome([ahead, DELETION, second, again]) is None
    assert outcome([FIRST, DELETION, second, again]) == again.content


def test_old_event_that_comes_late_takes_back_what_only_repeated_it() -> None:
    late = updated(8, published_at=START + 8 * SECOND)
    again = updated(11, published_at=START + 11 * SECOND, made_at=late.stamp.made_at)
    assert outcome([FIRST, DELETION, again]) == again.content
    assert outcome([FIRST, DELETION, again, late]) is None


def test_creation_is_known_to_be_behind_the_deletion_by_so_much_unless_it_only_repeats() -> None:
    history = History().after(FIRST).after(DELETION)
    assert history.behind_deletion(recreated(11, 3.0)) == 2 * SECOND - 1
    assert history.behind_deletion(recreated(11, 0.5)) == 0
    assert history.behind_deletion(FIRST) == 0
    assert history.behind_deletion(created(11, published_at=START + 11 * SECOND, made_at=FIRST.stamp.made_at)) == 0
    assert History().behind_deletion(recreated(11, 3.0)) == 0
