"""Copies get times under which the store comes to the state that the stream alone would have led to."""

from collections.abc import Sequence
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from libs.core.events.copy_order import CopyOrder
from libs.core.store.history import EntityEvent, EventKind, History, Stamp

START = 1_700_000_000_000_000_000
MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND
STREAM = START - SECOND
CREATED, UPDATED, DELETED = EventKind.CREATED, EventKind.UPDATED, EventKind.DELETED


@dataclass(frozen=True)
class Published:
    """An event, when it was really published, and when its copy was read."""

    kind: EventKind
    published_at: int
    made_at: int | None
    precision: int
    received_at: int
    number: int

    def event(self, published_at: int, **place: int) -> EntityEvent:
        made_at = None if self.made_at is None else self.made_at // self.precision * self.precision
        stamp = Stamp.of(published_at, made_at=made_at, precision=self.precision, **place)
        content = {} if self.kind is DELETED else {"config": {"n": self.number}, "custom": {}}
        return EntityEvent("x", self.kind, stamp, content)

    def from_stream(self) -> EntityEvent:
        return self.event(self.published_at, stream=STREAM, sequence=self.number + 1)


@st.composite
def published(draw: st.DrawFn) -> list[Published]:
    """The events of one producer, which a worker reads in order with a delay."""
    precision = draw(st.sampled_from([1, 1000, MILLISECOND]))
    # Without a time in it an event stands where its copy arrived, so that must not be after the next one.
    says_when_made = draw(st.booleans())
    longest_delay = 400 if says_when_made else 2
    now = read_at = START
    events = []
    for number in range(draw(st.integers(1, 8))):
        now += draw(st.integers(3, 60)) * MILLISECOND
        read_at = max(read_at, now + draw(st.integers(0, longest_delay)) * MILLISECOND)
        kind = draw(st.sampled_from(EventKind))
        made_at = now - draw(st.integers(0, MILLISECOND)) if says_when_made and kind is not DELETED else None
        events.append(Published(kind, now, made_at, precision, read_at, number))
    return events


def copies_of(events: Sequence[Published], order: CopyOrder | None = None) -> list[EntityEvent]:
    order = order or CopyOrder()
    return [order.stamped(one.event(one.received_at), one.received_at) for one in events]


def outcome(events: Sequence[EntityEvent]) -> object:
    history = History()
    for event in events:
        history = history.after(event)
    return history.current.content if history.current is not None else None


@settings(max_examples=500, deadline=None)
@given(events=published(), data=st.data())
def test_copies_beside_any_part_of_the_stream_lead_to_what_the_whole_stream_leads_to(
    events: list[Published], data: st.DataObject
) -> None:
    arrived = data.draw(st.lists(st.sampled_from(events), unique=True))
    known = [*(one.from_stream() for one in arrived), *copies_of(events)]

    assert outcome(data.draw(st.permutations(known))) == outcome([one.from_stream() for one in events])


@settings(max_examples=300, deadline=None)
@given(events=published(), first=st.integers(0, 7), data=st.data())
def test_copies_of_a_worker_that_started_later_lead_to_the_same(
    events: list[Published], first: int, data: st.DataObject
) -> None:
    known = [*(one.from_stream() for one in events[:first]), *copies_of(events[first:]), *copies_of(events)]

    assert outcome(data.draw(st.permutations(known))) == outcome([one.from_stream() for one in events])


def at(milliseconds: int) -> int:
    return START + milliseconds * MILLISECOND


@pytest.mark.parametrize("lost", [DELETED, UPDATED], ids=str)
def test_a_deletion_read_late_spares_what_was_made_after_it(lost: EventKind) -> None:
    events = [
        Published(CREATED, at(0), at(0), 1, at(300), 0),
        Published(DELETED, at(10), None, 1, at(301), 1),
        Published(UPDATED, at(15), at(14), 1, at(302), 2),
    ]
    arrived = [one.from_stream() for one in events if one.kind is not lost]

    assert outcome([*arrived, *copies_of(events)]) == {"config": {"n": 2}, "custom": {}}


def test_a_deletion_of_what_was_made_before_the_first_copy_takes_it_away() -> None:
    before = Published(CREATED, at(0), at(0), 1, at(0), 0)
    deletion = Published(DELETED, at(2500), None, 1, at(2501), 1)

    assert outcome([before.from_stream(), *copies_of([deletion])]) is None


def test_other_entities_tell_when_a_deletion_was_published_at_the_earliest() -> None:
    order = CopyOrder()
    other = EntityEvent("y", CREATED, Stamp.of(at(100), made_at=at(100)), {"config": {}, "custom": {}})
    order.stamped(other, at(400))
    before = Published(CREATED, at(50), at(50), 1, at(50), 0)
    [deleted] = copies_of([Published(DELETED, at(101), None, 1, at(401), 1)], order)

    assert outcome([before.from_stream(), deleted]) is None
    assert deleted.stamp.published_at <= at(101)


def test_a_deletion_takes_away_what_the_stream_published_slightly_later_than_its_copy_says() -> None:
    events = [
        Published(CREATED, at(0), at(0), 1, at(0), 0),
        Published(DELETED, at(10), None, 1, at(10), 1),
        Published(CREATED, at(20), at(20) - 1000, 1, at(20), 2),
        Published(DELETED, at(30), None, 1, at(30), 3),
    ]

    assert outcome([events[2].from_stream(), *copies_of(events)]) is None
