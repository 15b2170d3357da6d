"""Segments whose entities require labels of their worker."""

from dataclasses import replace

from libs.core.coordination import HeldSegment
from libs.core.leases.lease import Holder, LeaseView, SegmentView
from libs.core.master.assignment import decide
from libs.core.master.worker_view import WorkerView
from libs.core.placement import labels_in
from libs.core.room import Need, Room


def worker(name: str, labels: str = "", *held: int, **fields: object) -> WorkerView:
    view = WorkerView(name, f"{name}-1", f"host-of-{name}", ord(name[0]), labels=labels_in(labels))
    if held:
        view = replace(view, held=tuple(HeldSegment(one, 1) for one in held), assigned=frozenset(held))
    return replace(view, **fields)  # type: ignore[arg-type]


def segment(number: int, placement: str = "", by: WorkerView | None = None) -> SegmentView:
    lease = LeaseView(number, Holder(by.worker_id, by.instance_id, by.host), 1, 4.0) if by is not None else None
    return SegmentView(number, 1, lease, placement)


def test_segment_goes_only_to_a_worker_with_all_of_its_labels() -> None:
    workers = [worker("a"), worker("b", "egress=x"), worker("c", "egress=x,region=eu")]

    decision = decide([segment(number, "egress=x,region=eu") for number in (1, 2, 3)], workers)

    assert decision.given == {"c": {1, 2, 3}}


def test_segment_whose_labels_no_worker_has_waits_and_others_do_not_wait_for_it() -> None:
    decision = decide([segment(1, "egress=y"), segment(2)], [worker("a", "egress=x")])

    assert decision.waiting == [1]
    assert decision.owners == {2: "a"}


def test_segment_without_placement_goes_to_any_worker() -> None:
    assert decide([segment(1)], [worker("a", "egress=x")]).owners == {1: "a"}


def test_worker_that_lacks_the_labels_releases_a_segment_before_another_one_gets_it() -> None:
    holder, other = worker("a", "", 1), worker("b", "egress=x")

    releasing = decide([segment(1, "egress=x", by=holder)], [holder, other])
    released = decide([segment(1, "egress=x")], [replace(holder, held=(), assigned=frozenset()), other])

    assert (releasing.owners, releasing.reserved) == ({}, {1: "a"})
    assert releasing.reasons == {"a": "this worker lacks the labels egress=x, which segment 1 needs"}
    assert released.owners == {1: "b"}


def test_segment_does_not_move_away_from_a_worker_that_has_the_labels() -> None:
    holder = worker("a", "egress=x", 1, 2, 3)
    segments = [segment(number, "egress=x", by=holder) for number in (1, 2, 3)]

    decision = decide(segments, [holder, worker("b", "egress=x"), worker("c")], target=16)

    assert decision.given == {"a": {1, 2, 3}}


def test_spreading_above_the_target_uses_only_workers_with_the_labels() -> None:
    holder = worker("a", "egress=x", 1, 2)
    segments = [segment(number, "egress=x", by=holder) for number in (1, 2)]

    assert decide(segments, [holder, worker("c")], target=1).given == {"a": {1, 2}}
    assert decide(segments, [holder, worker("b", "egress=x"), worker("c")], target=1).given == {"a": {1}, "b": {2}}


def test_drained_worker_keeps_a_segment_that_no_other_worker_has_the_labels_for_and_says_so() -> None:
    drained = worker("a", "egress=x", 1, cordoned=True, drained=True)

    decision = decide([segment(1, "egress=x", by=drained)], [drained, worker("b")])

    assert decision.owners == {1: "a"}
    assert decision.staying == {"a": {1: "no other worker that accepts segments has the labels egress=x"}}


def test_room_elsewhere_does_not_attract_a_segment_that_may_not_go_there() -> None:
    holder = worker("a", "egress=x", 1, engine_lost=True)
    rooms = {"host-of-b": Room(Need(100), Need(100), Need(10))}

    decision = decide([segment(1, "egress=x", by=holder)], [holder, worker("b")], rooms)

    assert (decision.owners, decision.moves) == ({1: "a"}, [])
