from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from libs.core.coordination import HeldSegment, WorkerIdentity, WorkerState
from libs.core.leases.lease import Holder, LeaseView, SegmentView
from libs.core.master.assignment import Decision, decide
from libs.core.master.counts import Waits, workers_by_role
from libs.core.master.registry import Registry, SessionId, Worker
from libs.core.master.status import SegmentState, segment_statuses, segments_by_state, worker_status

WORKERS = [f"w{number}" for number in range(4)]
SEGMENTS = range(5)

worker_states = st.builds(
    WorkerState,
    held=st.lists(
        st.builds(HeldSegment, st.sampled_from(SEGMENTS), st.integers(1, 3)), unique_by=lambda held: held.segment_id
    ).map(tuple),
    running=st.just(0),
    draining=st.booleans(),
    impediment=st.sampled_from(["", "no engine"]),
)


def with_lease(segment_id: int, bot_count: int, worker_id: str | None) -> SegmentView:
    lease = LeaseView(segment_id, Holder(worker_id, "i", "h"), 2, 3.0) if worker_id is not None else None
    return SegmentView(segment_id, bot_count, lease)


segments = st.dictionaries(
    st.sampled_from(SEGMENTS), st.tuples(st.integers(0, 1), st.none() | st.sampled_from([*WORKERS, "unknown"]))
).map(lambda found: [with_lease(number, *more) for number, more in sorted(found.items())])


def known(states: dict[str, WorkerState]) -> Registry:
    registry = Registry(5.0)
    for number, (worker_id, state) in enumerate(states.items()):
        identity = WorkerIdentity(worker_id, "i", "h", "host", "v", 1, 1)
        registry.register(SessionId(number), identity, state, 0.0)
    return registry


@given(survey=segments, states=st.dictionaries(st.sampled_from(WORKERS), worker_states))
def test_counts_are_those_of_the_statuses(survey: list[SegmentView], states: dict[str, WorkerState]) -> None:
    registry = known(states)
    decision: Decision = decide(survey, registry.views())
    workers: list[Worker] = list(registry.workers)

    by_state = segments_by_state(survey, decision, workers)

    statuses = segment_statuses(survey, decision, workers)
    assert {state: len(found) for state, found in by_state.items()} == {
        state: Counter(status.state for status in statuses)[state] for state in SegmentState
    }
    roles = Counter(worker_status(worker, 0.0).role for worker in workers)
    assert workers_by_role(workers) == {role: roles[role] for role in workers_by_role([])}


def unowned(*segment_ids: int) -> dict[SegmentState, set[int]]:
    return {SegmentState.OWNED: {99}, SegmentState.ASSIGNED: set(), SegmentState.WAITING: set(segment_ids)}


def test_the_longest_wait_is_that_of_the_segment_that_waits_longest() -> None:
    waits = Waits()
    waits.note(unowned(1), 100.0)
    waits.note(unowned(1, 2), 103.0)
    assert waits.longest_seconds(110.0) == 10.0

    waits.note(unowned(2), 111.0)

    assert waits.longest_seconds(113.0) == 10.0


def test_a_segment_that_had_an_owner_meanwhile_waits_anew() -> None:
    waits = Waits()
    waits.note(unowned(1), 100.0)
    waits.note(unowned(), 105.0)
    assert waits.longest_seconds(106.0) == 0.0

    waits.note(unowned(1), 107.0)

    assert waits.longest_seconds(109.0) == 2.0
