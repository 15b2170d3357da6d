"""The registry of workers, in virtual time."""

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
    register_from_wire,
    state_from_wire,
    state_to_wire,
)
from libs.core.leases.lease import SegmentView
from libs.core.master.assignment import decide
from libs.core.master.registry import (
    UNDECIDED,
    Abandon,
    AskToRegister,
    Refuse,
    Registry,
    Replace,
    SendAssignment,
    SessionId,
)
from libs.core.room import Demand, Need, Room
from proto.runtime.v1 import coordination_pb2 as pb

ONE, TWO, THREE = SessionId(1), SessionId(2), SessionId(3)
IDLE = WorkerState()
HOLDS_7 = WorkerState(held=(HeldSegment(7, 1),), running=2)


def identity(name: str, instance: str = "1", started_at_milliseconds: int = 0) -> WorkerIdentity:
    return WorkerIdentity(name, f"{name}-{instance}", "host", started_at_milliseconds=started_at_milliseconds)


OWN, OTHER = b"own-key", b"other-key"


def keyed(instance: str, key: bytes, started_at_milliseconds: int = 0) -> WorkerIdentity:
    return replace(identity("a", instance, started_at_milliseconds), public_key=key)


@pytest.fixture
def registry() -> Registry:
    return Registry(death_timeout_seconds=5.0)


def decided(registry: Registry, *segments: int) -> list[SendAssignment]:
    return registry.apply(decide([SegmentView(number, 1, None) for number in segments], registry.views()))


def test_a_silent_worker_is_dead_after_the_timeout_and_not_before(registry: Registry) -> None:
    registry.register(ONE, identity("a"), IDLE, now=0.0)
    for now in (1.0, 2.0, 3.0, 4.0, 4.9):
        assert registry.expire(now) == []

    dead = registry.expire(5.0)

    assert [worker.identity.worker_id for worker in dead] == ["a"]
    assert len(registry) == 0
    assert registry.take_changed()


def test_silent_worker_is_dead_at_the_next_check_and_checks_are_few(registry: Registry) -> None:
    now, checks = 0.0, 0
    registry.register(ONE, identity("a"), IDLE, now=0.0)
    registry.heartbeat(ONE, IDLE, now=0.7)

    while not registry.expire(now):
        now += registry.check_in_seconds(now)
        checks += 1

    assert 5.7 < now < 5.9
    assert checks <= 6


def test_check_without_workers_is_early_enough_to_notice_that_the_process_stood_still(registry: Registry) -> None:
    assert registry.check_in_seconds(3.0) == 1.25  # expire() takes half the timeout for a standstill


def test_worker_that_is_overdue_already_is_checked_for_soon(registry: Registry) -> None:
    registry.register(ONE, identity("a"), IDLE, now=0.0)

    assert 0 < registry.check_in_seconds(60.0) < 0.2


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
    assert [view.held for view in registry.views()] == [(HeldSegment(7, 1),)]


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


def test_no_message_is_sent_before_first_decision(registry: Registry) -> None:
    registry.register(ONE, identity("a"), HOLDS_7, now=0.0)

    assert registry.heartbeat(ONE, HOLDS_7, now=2.0) is None
    assert registry.workers[0].decided is UNDECIDED


def test_assignment_is_sent_once_and_repeated_after_differing_heartbeat(registry: Registry) -> None:
    registry.register(ONE, identity("a"), IDLE, now=0.0)
    sent = decided(registry, 7)

    assert sent == [SendAssignment(ONE, Assignment(frozenset([7]), "assigned"))]
    assert decided(registry, 7) == []
    assert registry.heartbeat(ONE, IDLE, now=2.0) == sent[0]
    assert registry.heartbeat(ONE, HOLDS_7, now=4.0) is None


def test_repeated_assignment_keeps_trace_of_its_decision(registry: Registry) -> None:
    registry.register(ONE, identity("a"), IDLE, now=0.0)
    decision = decide([SegmentView(7, 1, None)], registry.views())
    sent = registry.apply(decision, {"traceparent": "00-t-s-01"})

    again = registry.heartbeat(ONE, IDLE, now=2.0)

    assert isinstance(again, SendAssignment)
    assert assignment_from_wire(assignment_to_wire(again.assignment)).trace == sent[0].assignment.trace
    assert sent[0].assignment.trace == {"traceparent": "00-t-s-01"}


def test_standby_assignment_has_reason(registry: Registry) -> None:
    registry.register(ONE, identity("a"), HOLDS_7, now=0.0)

    assert decided(registry) == [SendAssignment(ONE, Assignment(frozenset(), "segment 7 no longer has entities"))]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (IDLE, HOLDS_7, False),
        (HOLDS_7, IDLE, True),
        (HOLDS_7, replace(HOLDS_7, running=9), False),
        (HOLDS_7, replace(HOLDS_7, draining=True), True),
        (IDLE, replace(IDLE, impediment="no engine"), True),
        (replace(IDLE, impediment="no engine"), IDLE, True),
        (IDLE, replace(IDLE, refused={7: "its keepalive cannot be written"}), True),
        (IDLE, replace(IDLE, engine_lost=True), True),
        (HOLDS_7, replace(HOLDS_7, held=(HeldSegment(7, 1), HeldSegment(8, 1))), False),
        (HOLDS_7, replace(HOLDS_7, held=(HeldSegment(7, 1), HeldSegment(8, 1, taken_over=True))), True),
        (HOLDS_7, replace(HOLDS_7, held=(HeldSegment(7, 1, Demand(Need(9))),)), False),
        (HOLDS_7, replace(HOLDS_7, held=(HeldSegment(7, 1, Demand(lacking=Need(9))),)), True),
        (HOLDS_7, replace(HOLDS_7, room=Room(Need(9), Need(9), Need(1))), False),
    ],
)
def test_only_what_can_change_the_assignment_asks_for_a_decision(
    registry: Registry, before: WorkerState, after: WorkerState, expected: bool
) -> None:
    registry.register(ONE, identity("a"), before, now=0.0)
    registry.take_changed()

    registry.heartbeat(ONE, after, now=1.0)

    assert registry.take_changed() is expected


def test_worker_that_refuses_a_segment_receives_no_moves_for_longer_each_time(registry: Registry) -> None:
    refuses = replace(IDLE, refused={7: "its keepalive cannot be written"})
    registry.register(ONE, identity("a"), IDLE, now=0.0)
    late = []
    for now, state in (
        *((1.0, refuses), (2.0, IDLE), (20.0, IDLE), (21.0, IDLE)),
        *((30.0, refuses), (31.0, IDLE), (69.0, IDLE), (70.0, IDLE)),
        *((800.0, refuses), (801.0, IDLE), (820.0, IDLE)),
    ):
        registry.heartbeat(ONE, state, now)
        late.append(registry.views()[0].refused_lately)

    assert late == [True, True, True, False, True, True, True, False, True, True, False]


def test_room_that_comes_asks_for_a_decision_while_an_entity_waits_for_room(registry: Registry) -> None:
    lacking = replace(HOLDS_7, held=(HeldSegment(7, 1, Demand(lacking=Need(9))),))
    registry.register(ONE, identity("a"), lacking, now=0.0)
    registry.register(TWO, identity("b"), IDLE, now=0.0)
    decided(registry, 7)
    registry.take_changed()

    registry.heartbeat(TWO, replace(IDLE, room=Room(Need(9), Need(9), Need(1))), now=1.0)

    assert registry.take_changed()


def test_engine_of_several_workers_has_the_least_room_that_they_report(registry: Registry) -> None:
    for session, name, free in ((ONE, "a", 5), (TWO, "b", 3), (THREE, "c", 9)):
        registry.register(session, identity(name), replace(IDLE, room=Room(Need(9), Need(free), Need(1))), now=0.0)

    assert registry.rooms() == {"host": Room(Need(9), Need(3), Need(1))}


def test_workers_settle_a_while_after_the_last_registration_and_not_for_ever() -> None:
    registry = Registry(death_timeout_seconds=5.0, settle_seconds=0.5)
    assert registry.settled_in_seconds(0.0) <= 0

    registry.register(ONE, identity("a"), IDLE, now=1.0)
    assert registry.settled_in_seconds(1.0) == 0.5
    registry.register(TWO, identity("b"), IDLE, now=1.4)
    assert registry.settled_in_seconds(1.4) == 0.5
    for number in range(8):
        registry.register(SessionId(10 + number), identity(f"c{number}"), IDLE, now=1.5 + number / 5)
    assert registry.settled_in_seconds(3.0) <= 0


def test_worker_that_registers_again_on_another_stream_unsettles_nothing() -> None:
    registry = Registry(death_timeout_seconds=5.0, settle_seconds=0.5)
    registry.register(ONE, identity("a"), IDLE, now=1.0)

    registry.register(TWO, identity("a"), IDLE, now=9.0)

    assert registry.settled_in_seconds(9.0) <= 0


def test_standby_assignment_is_delayed_until_workers_settled(registry: Registry) -> None:
    registry.register(ONE, identity("a"), IDLE, now=0.0)
    decision = decide([SegmentView(7, 1, None)], registry.views(), settled=False)

    assert registry.apply(decision, settled=False) == []
    assert registry.workers[0].decided is UNDECIDED


def test_state_of_a_worker_survives_the_wire() -> None:
    room = Room(Need(9, 2.0), Need(-1, 0.5), Need(1, 0.25))
    held = (HeldSegment(7, 1, Demand(Need(5, 0.5), Need(2))), HeldSegment(8, 2, taken_over=True))
    state = WorkerState(held, 3, True, "no engine", {9: "it is missing"}, room, engine_lost=True)

    assert state_from_wire(state_to_wire(state)) == state
    assert assignment_from_wire(assignment_to_wire(Assignment(frozenset([3, 1]), "why"))).segments == {1, 3}


def test_worker_of_an_older_version_is_understood_and_given_one_segment_at_most() -> None:
    old = pb.Register(worker_id="a", state=pb.WorkerState(held=pb.HeldSegment(segment_id=7, epoch=2)))

    identity, state = register_from_wire(old)

    assert (identity.owns_several, state.held) == (False, (HeldSegment(7, 2),))
    registry = Registry(death_timeout_seconds=5.0)
    registry.register(ONE, identity, state, now=0.0)
    assert decide([SegmentView(number, 1, None) for number in (6, 7)], registry.views()).owners == {7: "a"}
    assert assignment_to_wire(Assignment(frozenset([7]))).segment_id == 7


def test_master_of_an_older_version_is_understood() -> None:
    assert assignment_from_wire(pb.Assignment(segment_id=7)).segments == {7}
    assert state_to_wire(HOLDS_7).held.segment_id == 7


@pytest.mark.parametrize("key", [OTHER, b""], ids=["another key", "no key"])
@pytest.mark.parametrize("instance", ["1", "2"], ids=["same instance", "another instance"])
def test_connected_worker_is_not_replaced_by_one_without_its_key(registry: Registry, key: bytes, instance: str) -> None:
    registry.register(ONE, keyed("1", OWN), IDLE, now=0.0)

    answer = registry.register(TWO, keyed(instance, key, started_at_milliseconds=9), IDLE, now=1.0)

    assert answer == [Refuse(TWO, "a")]
    assert [(worker.session, worker.identity.public_key) for worker in registry.workers] == [(ONE, OWN)]


def test_restarted_worker_with_the_same_key_replaces_its_former_process_at_once(registry: Registry) -> None:
    registry.register(ONE, keyed("1", OWN), HOLDS_7, now=0.0)
    registry.bind({"a": OWN}, registry.departures)

    restarted = keyed("2", OWN, started_at_milliseconds=9)

    assert registry.register(TWO, restarted, IDLE, now=1.0) == [Replace(ONE, restarted)]
    assert [worker.session for worker in registry.workers] == [TWO]


@pytest.mark.parametrize("key", [OTHER, b""], ids=["another key", "no key"])
def test_worker_id_is_bound_to_the_key_of_its_live_lease(registry: Registry, key: bytes) -> None:
    registry.bind({"a": OWN}, registry.departures)
    refused = registry.register(ONE, keyed("1", key), IDLE, now=0.0)

    registry.bind({}, registry.departures)

    assert refused == [Refuse(ONE, "a")]
    assert registry.register(ONE, keyed("1", key), IDLE, now=9.0) == []


def test_false_worker_from_before_the_leases_were_read_is_refused_then(registry: Registry) -> None:
    registry.register(ONE, keyed("1", OTHER), IDLE, now=0.0)
    registry.register(TWO, identity("b"), IDLE, now=0.0)
    registry.take_changed()

    refused = registry.bind({"a": OWN}, registry.departures)

    assert refused == [Refuse(ONE, "a")]
    assert [worker.identity.worker_id for worker in registry.workers] == ["b"]
    assert registry.take_changed()


def test_worker_that_left_is_bound_until_leases_are_read_after_that(registry: Registry) -> None:
    registry.register(ONE, keyed("1", OWN), HOLDS_7, now=0.0)
    before = registry.departures
    registry.leave(ONE)

    registry.bind({}, before)
    early = registry.register(TWO, keyed("2", OTHER), IDLE, now=1.0)
    registry.bind({}, registry.departures)

    assert early == [Refuse(TWO, "a")]
    assert registry.register(TWO, keyed("2", OTHER), IDLE, now=2.0) == []


def test_worker_that_left_without_leases_leaves_its_id_free(registry: Registry) -> None:
    registry.register(ONE, keyed("1", OWN), IDLE, now=0.0)
    registry.leave(ONE)

    assert registry.register(TWO, keyed("2", OTHER), IDLE, now=1.0) == []


def test_worker_of_an_older_version_is_replaced_by_a_newer_one_with_a_key(registry: Registry) -> None:
    registry.register(ONE, keyed("1", b""), HOLDS_7, now=0.0)
    newer = keyed("2", OWN, started_at_milliseconds=9)

    assert registry.register(TWO, newer, IDLE, now=1.0) == [Replace(ONE, newer)]


def test_new_leader_binds_nothing_that_a_former_term_read(registry: Registry) -> None:
    registry.bind({"a": OWN}, registry.departures)
    registry.clear()

    assert registry.register(ONE, keyed("1", OTHER), IDLE, now=0.0) == []


class Life(RuleBasedStateMachine):
    """Any order of registrations, heartbeats, ends of streams, decisions and time."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(death_timeout_seconds=5.0)
        self.now = 0.0
        self.next_session = 0
        self.heard: dict[int, float] = {}
        self.segments = [SegmentView(number, 1, None) for number in range(2)]

    @rule(name=st.sampled_from("abc"), instance=st.sampled_from("12"), held=st.sets(st.integers(0, 2)))
    def register(self, name: str, instance: str, held: set[int]) -> None:
        self.next_session += 1
        state = WorkerState(held=tuple(HeldSegment(segment_id, 1) for segment_id in sorted(held)))
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
        assigned = [segment_id for worker in self.registry.workers for segment_id in worker.assigned]
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
