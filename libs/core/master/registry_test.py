"""The workers that a master knows, in virtual time."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from libs.core.coordination import (
    Assignment,
    HeldSegment,
    WorkerIdentity,
    WorkerState,
    assignment_from_wire,
    assignment_to_wire,
)
from libs.core.lease import SegmentView
from libs.core.master.assignment import decide
from libs.core.master.registry import UNDECIDED, Abandon, AskToRegister, Registry, Replace, SessionId, Tell

ONE, TWO, THREE = SessionId(1), SessionId(2), SessionId(3)
IDLE = WorkerState()
HOLDS_7 = WorkerState(held=HeldSegment(7, 1), running=2)


def identity(name: str, instance: str = "1", started_at_milliseconds: int = 0) -> WorkerIdentity:
    return WorkerIdentity(name, f"{name}-{instance}", "host", started_at_milliseconds=started_at_milliseconds)


@pytest.fixture
def registry() -> Registry:
    return Registry(death_timeout_seconds=5.0)


def decided(registry: Registry, *segments: int) -> list[Tell]:
    return registry.apply(decide([SegmentView(number, 1, None) for number in segments], registry.views()))


def test_a_silent_worker_is_dead_after_the_timeout_and_not_before(registry: Registry) -> None:
    registry.register(ONE, identity("a"), IDLE, now=0.0)
    for now in (1.0, 2.0, 3.0, 4.0, 4.9):
        assert registry.expire(now) == []

    dead = registry.expire(5.0)

    assert [worker.identity.worker_id for worker in dead] == ["a"]
    assert len(registry) == 0
    assert registry.take_changed()


def test_a_heartbeat_keeps_a_worker_alive(registry: Registry) -> None:
    registry.register(ONE, identity("a"), IDLE, now=0.0)
    registry.register(TWO, identity("b"), IDLE, now=0.0)
    registry.heartbeat(ONE, IDLE, now=4.0)
    registry.expire(4.5)

    assert [worker.identity.worker_id for worker in registry.expire(6.0)] == ["b"]


def test_a_master_that_was_frozen_itself_gives_everybody_the_whole_time_again(registry: Registry) -> None:
    registry.register(ONE, identity("a"), IDLE, now=0.0)
    registry.expire(0.5)

    assert registry.expire(60.0) == []
    assert registry.expire(62.0) == []
    assert registry.expire(64.0) == []
    assert len(registry.expire(65.0)) == 1


def test_a_heartbeat_of_an_unknown_stream_is_asked_to_register(registry: Registry) -> None:
    assert registry.heartbeat(ONE, IDLE, now=0.0) == AskToRegister(ONE)


def test_an_ended_stream_removes_its_worker_at_once(registry: Registry) -> None:
    registry.register(ONE, identity("a"), IDLE, now=0.0)

    gone = registry.leave(ONE)

    assert gone is not None
    assert gone.identity == identity("a")
    assert registry.views() == []


def test_a_process_that_opens_another_stream_is_the_same_worker(registry: Registry) -> None:
    registry.register(ONE, identity("a"), IDLE, now=0.0)

    assert registry.register(TWO, identity("a"), HOLDS_7, now=1.0) == [Abandon(ONE)]

    assert registry.leave(ONE) is None
    assert [view.held for view in registry.views()] == [HeldSegment(7, 1)]


def test_a_newer_process_with_the_same_worker_id_replaces_the_older(registry: Registry) -> None:
    registry.register(ONE, identity("a", "1", 1000), HOLDS_7, now=0.0)
    newer = identity("a", "2", 2000)

    assert registry.register(TWO, newer, IDLE, now=1.0) == [Replace(ONE, newer)]

    assert [worker.identity for worker in registry.workers] == [newer]
    assert registry.heartbeat(ONE, HOLDS_7, now=2.0) == AskToRegister(ONE)


def test_an_older_process_that_comes_back_does_not_replace_its_successor(registry: Registry) -> None:
    newer = identity("a", "2", 2000)
    registry.register(TWO, newer, IDLE, now=0.0)

    assert registry.register(ONE, identity("a", "1", 1000), HOLDS_7, now=1.0) == [Replace(ONE, newer)]

    assert [worker.identity for worker in registry.workers] == [newer]


def test_nothing_is_told_before_the_first_decision(registry: Registry) -> None:
    registry.register(ONE, identity("a"), HOLDS_7, now=0.0)

    assert registry.heartbeat(ONE, HOLDS_7, now=2.0) is None
    assert registry.workers[0].decided is UNDECIDED


def test_a_decision_is_told_once_and_again_with_each_heartbeat_that_differs(registry: Registry) -> None:
    registry.register(ONE, identity("a"), IDLE, now=0.0)
    told = decided(registry, 7)

    assert told == [Tell(ONE, Assignment(7, "assigned"))]
    assert decided(registry, 7) == []
    assert registry.heartbeat(ONE, IDLE, now=2.0) == told[0]
    assert registry.heartbeat(ONE, HOLDS_7, now=4.0) is None


def test_an_assignment_that_is_told_again_still_names_the_trace_of_its_decision(registry: Registry) -> None:
    registry.register(ONE, identity("a"), IDLE, now=0.0)
    decision = decide([SegmentView(7, 1, None)], registry.views())
    told = registry.apply(decision, {"traceparent": "00-t-s-01"})

    again = registry.heartbeat(ONE, IDLE, now=2.0)

    assert isinstance(again, Tell)
    assert assignment_from_wire(assignment_to_wire(again.assignment)).trace == told[0].assignment.trace
    assert told[0].assignment.trace == {"traceparent": "00-t-s-01"}


def test_a_worker_is_told_to_stand_by_and_why(registry: Registry) -> None:
    registry.register(ONE, identity("a"), HOLDS_7, now=0.0)

    assert decided(registry) == [Tell(ONE, Assignment(None, "segment 7 has no entities any more"))]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (IDLE, HOLDS_7, False),
        (HOLDS_7, IDLE, True),
        (HOLDS_7, replace(HOLDS_7, running=9), False),
        (HOLDS_7, replace(HOLDS_7, draining=True), True),
        (IDLE, replace(IDLE, impediment="no engine"), True),
        (replace(IDLE, impediment="no engine"), IDLE, True),
    ],
)
def test_only_what_can_change_the_assignment_asks_for_a_decision(
    registry: Registry, before: WorkerState, after: WorkerState, expected: bool
) -> None:
    registry.register(ONE, identity("a"), before, now=0.0)
    registry.take_changed()

    registry.heartbeat(ONE, after, now=1.0)

    assert registry.take_changed() is expected


class Life(RuleBasedStateMachine):
    """Any order of registrations, heartbeats, ends of streams, decisions and time."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(death_timeout_seconds=5.0)
        self.now = 0.0
        self.next_session = 0
        self.heard: dict[int, float] = {}
        self.segments = [SegmentView(number, 1, None) for number in range(2)]

    @rule(name=st.sampled_from("abc"), instance=st.sampled_from("12"), held=st.none() | st.integers(0, 2))
    def register(self, name: str, instance: str, held: int | None) -> None:
        self.next_session += 1
        state = WorkerState(held=HeldSegment(held, 1) if held is not None else None)
        self.registry.register(
            SessionId(self.next_session), identity(name, instance, int(instance)), state, now=self.now
        )
        self.heard[self.next_session] = self.now

    @rule(session=st.integers(1, 6), draining=st.booleans())
    def heartbeat(self, session: int, draining: bool) -> None:
        answer = self.registry.heartbeat(SessionId(session), WorkerState(draining=draining), self.now)
        self.heard[session] = self.now
        assert (answer == AskToRegister(SessionId(session))) == (session not in self.sessions())

    @rule(session=st.integers(1, 6))
    def leave(self, session: int) -> None:
        self.registry.leave(SessionId(session))
        assert session not in self.sessions()

    @rule(seconds=st.floats(0, 2))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.registry.expire(self.now)

    @rule()
    def decide(self) -> None:
        self.registry.apply(decide(self.segments, self.registry.views()))
        assigned = [worker.assigned for worker in self.registry.workers if worker.assigned is not None]
        assert len(assigned) == len(set(assigned))

    @invariant()
    def worker_ids_and_sessions_are_unique(self) -> None:
        assert len(self.sessions()) == len(self.registry) == len({view.worker_id for view in self.registry.views()})

    @invariant()
    def nobody_is_known_after_the_timeout(self) -> None:
        assert all(self.now - self.heard[session] < 5.0 for session in self.sessions())

    def sessions(self) -> set[int]:
        return {worker.session for worker in self.registry.workers}


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
