from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.core.coordination import HeldSegment, WorkerIdentity, WorkerState
from libs.core.master.compaction import Calm, Fleet, Segment, Source, Unsettled, fleet_of, sources
from libs.core.master.registry import SessionId, Worker
from libs.core.master.status import MasterSnapshot, SegmentState, SegmentStatus, WorkerStatus, worker_status
from libs.core.room import MIB, Demand, Need, Room

CAPACITY = 10


def segment(number: int, entities: int, *, host: str = "h1", placement: str = "", is_open: bool = True) -> Segment:
    need = Need(entities * 100 * MIB)
    return Segment(number, entities, f"w-{host}", host, placement, is_open, need)


def room(free_mib: int) -> Room:
    return Room(Need(10_000 * MIB), Need(free_mib * MIB), Need(100 * MIB))


def chosen(*segments: Segment, rooms: Mapping[str, Room] | None = None) -> list[Source]:
    return sources(Fleet(segments, rooms or {}), CAPACITY)


def test_smallest_segment_whose_entities_fit_elsewhere_is_emptied_into_the_fullest_one() -> None:
    assert chosen(segment(1, 7), segment(2, 2), segment(3, 8))[0] == Source(2, 2, target=3)


def test_full_segment_is_no_target() -> None:
    assert chosen(segment(1, 10), segment(2, 2), segment(3, 5))[0] == Source(2, 2, target=3)


def test_nothing_moves_when_no_segment_would_be_saved() -> None:
    assert chosen(segment(1, 6), segment(2, 6), segment(3, 10)) == []


@pytest.mark.parametrize(("entities", "is_saved"), [(5, True), (6, False)])
def test_segment_is_emptied_only_if_all_of_its_entities_fit(entities: int, is_saved: bool) -> None:
    found = [one.segment_id for one in chosen(segment(1, 5), segment(2, entities))]

    assert (2 in found) is is_saved


def test_places_of_several_segments_count_together() -> None:
    assert chosen(segment(1, 8), segment(2, 8), segment(3, 4)) == [Source(3, 4, target=1)]


def test_of_equal_segments_the_newest_is_emptied_into_the_oldest() -> None:
    assert chosen(segment(1, 3), segment(2, 3))[0] == Source(2, 3, target=1)


def test_single_segment_stays() -> None:
    assert chosen(segment(1, 1)) == []


def test_entities_move_only_to_segments_of_their_placement() -> None:
    assert chosen(segment(1, 2, placement="egress=a"), segment(2, 3)) == []
    assert chosen(segment(1, 2, placement="egress=a"), segment(2, 3, placement="egress=a"), segment(3, 9))[0] == Source(
        1, 2, target=2
    )


def test_cordoned_worker_receives_no_entity_and_may_lose_some() -> None:
    assert chosen(segment(1, 5, is_open=False), segment(2, 2)) == []
    assert chosen(segment(1, 5), segment(2, 2, is_open=False)) == [Source(2, 2, target=1)]


def test_engine_needs_room_for_the_whole_segment_unless_it_has_it_already() -> None:
    far, small = segment(1, 5, host="h2"), segment(2, 2)

    assert chosen(far, small, rooms={"h2": room(199)}) == []
    assert chosen(far, small, rooms={"h2": room(200)}) == [Source(2, 2, target=1)]
    assert chosen(segment(3, 4), small, rooms={"h1": room(0)}) == [Source(2, 2, target=3)]


def test_segment_on_the_same_engine_is_preferred_to_a_fuller_one() -> None:
    assert chosen(segment(1, 8, host="h2"), segment(2, 2), segment(3, 3))[0] == Source(2, 2, target=3)


def test_entities_move_to_no_segment_with_fewer_of_them() -> None:
    assert chosen(segment(1, 8), segment(2, 8), segment(3, 4)) == [Source(3, 4, target=1)]
    assert [one.segment_id for one in chosen(segment(1, 6), segment(2, 6), segment(3, 6))] == [3, 2, 1]


@given(st.lists(st.integers(1, CAPACITY), max_size=8))
def test_moves_end_and_leave_as_few_segments_as_one_more_would_not_save(counts: list[int]) -> None:
    moves = 0
    while found := chosen(*(segment(number, one) for number, one in enumerate(counts) if one)):
        counts[found[0].segment_id] -= 1
        counts[found[0].target] += 1
        moves += 1
        assert moves <= CAPACITY * len(counts)

    left = sorted(one for one in counts if one)
    assert max(left, default=0) <= CAPACITY
    assert not left or sum(CAPACITY - one for one in left[1:]) < left[0]


def test_unsettled_fleet_has_no_sources() -> None:
    fleet = Fleet([segment(1, 2), segment(2, 2)], unsettled=Unsettled.DRAIN)

    assert sources(fleet, CAPACITY) == []


# --- the fleet


def worker(
    name: str, *held: int, assigned: Sequence[int] | None = None, template: str = "t1", **more: object
) -> WorkerStatus:
    state = WorkerState(held=tuple(HeldSegment(one, 1, Demand(Need(one * MIB))) for one in held))
    identity = WorkerIdentity(name, f"i-{name}", f"h-{name}", template=template)
    known = Worker(
        SessionId(1), identity, state, 1, 0.0, 0.0, decided=frozenset(held if assigned is None else assigned)
    )
    return replace(worker_status(known, 0.0), **more)  # type: ignore[arg-type]


def owned(number: int, worker_id: str | None, state: SegmentState = SegmentState.OWNED) -> SegmentStatus:
    return SegmentStatus(number, 3, state, worker_id, 1)


def known(workers: Sequence[WorkerStatus], segments: Sequence[SegmentStatus], **more: object) -> MasterSnapshot:
    snapshot = MasterSnapshot("m", True, "m", 1, 0.0, "", [], 16, segments, workers)
    return replace(snapshot, **more)  # type: ignore[arg-type]


def test_fleet_at_rest_has_all_segments_with_owner_need_and_room() -> None:
    fleet = fleet_of(known([worker("a", 1, room=room(7)), worker("b", 2)], [owned(1, "a"), owned(2, "b")]))

    assert fleet.unsettled is None
    assert fleet.segments[0] == Segment(1, 3, "a", "h-a", "", True, Need(1 * MIB))
    assert fleet.rooms == {"h-a": room(7)}
    assert fleet.shape == {1: "a", 2: "b"}


def test_segment_of_a_cordoned_worker_is_not_open() -> None:
    fleet = fleet_of(known([worker("a", 1, cordoned=True)], [owned(1, "a")]))

    assert (fleet.unsettled, fleet.segments[0].is_open) == (None, False)


A, B = worker("a", 1), worker("b", 2)
SEGMENTS = [owned(1, "a"), owned(2, "b")]


@pytest.mark.parametrize(
    ("snapshot", "reason"),
    [
        (known([A, B], SEGMENTS, problem="MongoDB is away"), Unsettled.UNKNOWN),
        (known([A, B], SEGMENTS, surveyed_seconds_ago=None), Unsettled.UNKNOWN),
        (known([A, B], [*SEGMENTS, owned(3, None, SegmentState.WAITING)]), Unsettled.SEGMENT_WITHOUT_OWNER),
        (known([A, B], [*SEGMENTS, owned(3, "b", SegmentState.ASSIGNED)]), Unsettled.SEGMENT_WITHOUT_OWNER),
        (known([A, B], [*SEGMENTS, owned(3, "gone")]), Unsettled.SEGMENT_WITHOUT_OWNER),
        (known([A, worker("b", 2, assigned=[2, 1])], SEGMENTS), Unsettled.SEGMENT_MOVES),
        (known([A, B], [owned(1, "b"), owned(2, "b")]), Unsettled.SEGMENT_MOVES),
        (known([A, worker("b", 2, drained=True, cordoned=True)], SEGMENTS), Unsettled.DRAIN),
        (known([A, worker("b", 2, role="draining")], SEGMENTS), Unsettled.DRAIN),
        (known([A, worker("b", 2, template="t2")], SEGMENTS), Unsettled.ROLLOUT),
        (known([A, worker("b", 2, impediment="disk full")], SEGMENTS), Unsettled.WORKER_IMPEDED),
        (known([A, worker("b", 2, engine_lost=True)], SEGMENTS), Unsettled.WORKER_IMPEDED),
        (known([A, worker("b", 2, refused={"9": "no"})], SEGMENTS), Unsettled.WORKER_IMPEDED),
        (known([A, worker("b", 2, demands={"2": Demand(Need(), Need(1))})], SEGMENTS), Unsettled.NO_ROOM),
    ],
)
def test_disturbed_fleet_is_unsettled(snapshot: MasterSnapshot, reason: Unsettled) -> None:
    assert fleet_of(snapshot) == Fleet(unsettled=reason)


def test_workers_with_other_labels_may_have_another_template() -> None:
    other = worker("b", 2, template="t2", labels=["egress=a"])

    assert fleet_of(known([A, other], SEGMENTS)).unsettled is None


# --- calm

REST = Fleet([segment(1, 2), segment(2, 2)])


def test_fleet_must_be_at_rest_for_the_whole_time() -> None:
    calm = Calm(60.0)

    assert [calm.lasts(REST, now) for now in (100.0, 159.9, 160.0, 161.0)] == [False, False, True, True]


@pytest.mark.parametrize(
    "other",
    [
        Fleet(REST.segments, unsettled=Unsettled.DRAIN),
        Fleet([segment(1, 2)]),
        Fleet([segment(1, 2), segment(2, 2, host="h2")]),
    ],
    ids=["unsettled", "fewer segments", "another owner"],
)
def test_disturbance_begins_the_time_again(other: Fleet) -> None:
    calm = Calm(60.0)
    calm.lasts(REST, 0.0)

    assert not calm.lasts(other, 59.0)
    assert not calm.lasts(REST, 60.0)
    assert not calm.lasts(REST, 119.9)
    assert calm.lasts(REST, 120.0)


def test_entities_that_come_and_go_are_no_disturbance() -> None:
    calm = Calm(60.0)
    calm.lasts(REST, 0.0)

    assert calm.lasts(Fleet([segment(1, 3), segment(2, 1)]), 60.0)


def test_order_begins_the_time_again() -> None:
    calm = Calm(60.0)
    calm.lasts(REST, 0.0)
    calm.disturbed()

    assert not calm.lasts(REST, 61.0)
    assert calm.lasts(REST, 121.0)
