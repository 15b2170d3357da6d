"""Who gets which segment."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from libs.core.coordination import HeldSegment
from libs.core.lease import Holder, LeaseView, SegmentView
from libs.core.master.assignment import Decision, WorkerView, decide


def worker(name: str, seniority: int = 0, **fields: object) -> WorkerView:
    view = WorkerView(worker_id=name, instance_id=f"{name}-1", host=f"host-of-{name}", seniority=seniority)
    return replace(view, **fields)  # type: ignore[arg-type]


def segment(number: int, bots: int = 1, by: WorkerView | None = None, remaining_seconds: float = 4.0) -> SegmentView:
    lease = None
    if by is not None:
        lease = LeaseView(number, Holder(by.worker_id, by.instance_id, by.host), 1, remaining_seconds)
    return SegmentView(number, bots, lease)


A, B, C = worker("a", 1), worker("b", 2), worker("c", 3)


def test_lowest_segments_go_to_the_workers_that_have_waited_longest() -> None:
    decision = decide([segment(7), segment(3), segment(5)], [C, A])

    assert decision.given == {"a": 3, "c": 5}
    assert decision.waiting == [7]


def test_a_segment_without_entities_is_nobodys() -> None:
    held = replace(A, held=HeldSegment(1, 4), assigned=1)

    decision = decide([segment(1, bots=0, by=A)], [held])

    assert decision.given == {}
    assert decision.reasons == {"a": "segment 1 has no entities any more"}


def test_a_worker_keeps_the_segment_whose_lease_it_holds() -> None:
    late = replace(B, held=HeldSegment(9, 1))

    decision = decide([segment(1), segment(9, by=B)], [A, late])

    assert decision.given == {"a": 1, "b": 9}


def test_a_worker_that_says_it_holds_a_segment_keeps_it_although_the_lease_was_not_seen_yet() -> None:
    decision = decide([segment(9)], [A, replace(B, held=HeldSegment(9, 1))])

    assert decision.given == {"b": 9}


def test_of_two_claims_the_one_with_the_higher_epoch_counts() -> None:
    decision = decide([segment(9)], [replace(A, held=HeldSegment(9, 1)), replace(B, held=HeldSegment(9, 2))])

    assert decision.given == {"b": 9}


def test_a_claim_is_void_when_somebody_else_has_the_lease() -> None:
    decision = decide([segment(9, by=B)], [replace(A, held=HeldSegment(9, 1), assigned=9), B])

    assert decision.given == {"b": 9}
    assert decision.reasons["a"] == "segment 9 is held by b"


def test_a_segment_of_an_unknown_worker_is_reserved_until_its_lease_has_run_out() -> None:
    decision = decide([segment(1, by=C, remaining_seconds=2.5), segment(2, by=C, remaining_seconds=1.5)], [A])

    assert decision.given == {}
    assert decision.reserved == {1: "c", 2: "c"}
    assert decision.next_expiry_seconds == 1.5


def test_a_worker_restarted_on_its_host_gets_its_segment_back() -> None:
    restarted = replace(B, instance_id="b-2")

    assert decide([segment(1, by=B)], [A, restarted]).given == {"b": 1}


def test_a_worker_of_the_same_name_on_another_host_waits_for_the_lease() -> None:
    elsewhere = replace(B, instance_id="b-2", host="another")

    decision = decide([segment(1, by=B)], [elsewhere])

    assert decision.given == {}
    assert decision.reserved == {1: "b"}


def test_a_draining_worker_gets_nothing_and_its_segment_is_reserved_while_it_holds_it() -> None:
    leaving = replace(A, draining=True, held=HeldSegment(1, 1), assigned=1)

    decision = decide([segment(1, by=A), segment(2)], [leaving, B])

    assert decision.given == {"b": 2}
    assert decision.reserved == {1: "a"}
    assert decision.reasons["a"] == "this worker is shutting down"


def test_what_was_assigned_and_not_yet_acquired_stays_assigned() -> None:
    assert decide([segment(1), segment(2)], [A, replace(B, assigned=1)]).given == {"b": 1, "a": 2}


def test_a_worker_with_an_impediment_is_passed_over_but_keeps_what_it_holds() -> None:
    stuck = replace(A, assigned=1, impediment="the database is out of reach")
    holding = replace(B, held=HeldSegment(2, 1), impediment="the engine is down")

    decision = decide([segment(1), segment(2, by=B)], [stuck, holding, C])

    assert decision.given == {"b": 2, "c": 1}
    assert decision.reasons["a"] == "this worker cannot take segment 1 now: the database is out of reach"


def test_a_worker_that_still_gives_one_segment_back_is_given_no_other() -> None:
    decision = decide([segment(1, bots=0, by=A), segment(2)], [replace(A, held=HeldSegment(1, 3))])

    assert decision.given == {}
    assert decision.waiting == [2]


# ---- properties

NAMES = [f"w{number}" for number in range(5)]
SEGMENTS = range(6)


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[SegmentView], list[WorkerView]]:
    known = [worker(name, seniority) for seniority, name in enumerate(NAMES)]
    segments = []
    for number in draw(st.sets(st.sampled_from(SEGMENTS))):
        by = draw(st.none() | st.sampled_from(known))
        segments.append(segment(number, draw(st.integers(0, 2)), by, draw(st.floats(0.1, 5))))
    workers = []
    for view in draw(st.lists(st.sampled_from(known), unique_by=lambda view: view.worker_id)):
        workers.append(
            replace(
                view,
                held=draw(st.none() | st.builds(HeldSegment, st.sampled_from(SEGMENTS), st.integers(1, 3))),
                assigned=draw(st.none() | st.sampled_from(SEGMENTS)),
                draining=draw(st.booleans()),
                impediment=draw(st.sampled_from(["", "", "no engine"])),
                instance_id=draw(st.sampled_from([view.instance_id, "other"])),
                host=draw(st.sampled_from([view.host, "other"])),
            )
        )
    return segments, workers


def carried_out(decision: Decision, workers: list[WorkerView]) -> list[WorkerView]:
    return [replace(view, assigned=decision.given.get(view.worker_id)) for view in workers]


@given(situations())
def test_each_segment_with_entities_is_given_reserved_or_waiting_and_only_one_of_these(
    situation: tuple[list[SegmentView], list[WorkerView]],
) -> None:
    segments, workers = situation

    decision = decide(segments, workers)

    placed = [*decision.given.values(), *decision.reserved, *decision.waiting]
    assert sorted(placed) == sorted(view.segment_id for view in segments if view.bot_count > 0)


@given(situations())
def test_nobody_is_given_what_somebody_else_has_a_live_lease_of(
    situation: tuple[list[SegmentView], list[WorkerView]],
) -> None:
    segments, workers = situation
    leases = {view.segment_id: view.lease for view in segments}
    by_id = {view.worker_id: view for view in workers}

    for worker_id, segment_id in decide(segments, workers).given.items():
        assert by_id[worker_id].may_take(leases[segment_id])
        assert not by_id[worker_id].draining


@given(situations())
def test_no_segment_waits_while_a_worker_stands_by(situation: tuple[list[SegmentView], list[WorkerView]]) -> None:
    segments, workers = situation

    decision = decide(segments, workers)

    idle = [view for view in workers if view.can_begin and view.held is None and view.worker_id not in decision.given]
    assert not (decision.waiting and idle)


@given(situations())
def test_deciding_again_changes_nothing(situation: tuple[list[SegmentView], list[WorkerView]]) -> None:
    segments, workers = situation
    decision = decide(segments, workers)

    again = decide(segments, carried_out(decision, workers))

    assert (again.given, again.reserved, again.waiting) == (decision.given, decision.reserved, decision.waiting)


@given(situations().flatmap(lambda both: st.tuples(st.just(both), st.permutations(both[0]), st.permutations(both[1]))))
def test_the_order_of_the_input_does_not_matter(
    orders: tuple[tuple[list[SegmentView], list[WorkerView]], list[SegmentView], list[WorkerView]],
) -> None:
    (segments, workers), other_segments, other_workers = orders

    assert decide(other_segments, other_workers) == decide(segments, workers)
