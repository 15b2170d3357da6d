"""Who gets which segment."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from libs.core.coordination import HeldSegment
from libs.core.leases.lease import Holder, LeaseView, SegmentView
from libs.core.master.assignment import Decision, Move, decide
from libs.core.master.worker_view import WorkerView
from libs.core.room import MIB, Demand, Need, Room


def worker(name: str, seniority: int = 0, **fields: object) -> WorkerView:
    view = WorkerView(worker_id=name, instance_id=f"{name}-1", host=f"host-of-{name}", seniority=seniority)
    return replace(view, **fields)  # type: ignore[arg-type]


def segment(number: int, bots: int = 1, by: WorkerView | None = None, remaining_seconds: float = 4.0) -> SegmentView:
    lease = None
    if by is not None:
        lease = LeaseView(number, Holder(by.worker_id, by.instance_id, by.host), 1, remaining_seconds)
    return SegmentView(number, bots, lease)


A, B, C = worker("a", 1), worker("b", 2), worker("c", 3)


def holding(view: WorkerView, *segment_ids: int, epoch: int = 1) -> WorkerView:
    return replace(view, held=tuple(HeldSegment(one, epoch) for one in segment_ids), assigned=frozenset(segment_ids))


def room(free_entities: float) -> Room:
    return Room(Need(100), Need(int(10 * free_entities)), Need(10))


def with_need(view: WorkerView, lacking: int | None, **needs: int) -> WorkerView:
    """*view* whose segments need so many bytes each, the one numbered *lacking* more than there is."""
    held = []
    for one in view.held:
        demand = Demand(Need(needs[f"s{one.segment_id}"]), Need(10) if one.segment_id == lacking else None)
        held.append(replace(one, demand=demand))
    return replace(view, held=tuple(held))


# ---- spreading


def test_segments_without_an_owner_are_spread_evenly() -> None:
    decision = decide([segment(number) for number in range(7)], [C, A, B])

    assert Counter(decision.owners.values()) == {"a": 3, "b": 2, "c": 2}
    assert decision.waiting == []


def test_segment_without_an_owner_goes_to_the_worker_with_fewest_segments() -> None:
    decision = decide(
        [segment(1, by=A), segment(2, by=A), segment(3, by=B), segment(4)], [holding(A, 1, 2), holding(B, 3)]
    )

    assert decision.given == {"a": {1, 2}, "b": {3, 4}}


def test_roomiest_of_workers_with_fewest_segments_gets_next() -> None:
    rooms = {A.host: room(3), B.host: room(5), C.host: room(4)}

    assert decide([segment(1)], [A, B, C], rooms).owners == {1: "b"}


def test_each_assignment_counts_against_the_room_of_its_engine() -> None:
    rooms = {A.host: room(8), B.host: room(5)}

    decision = decide([segment(1, bots=4), segment(2, bots=4)], [A, replace(B, seniority=0)], rooms, target=1)

    assert decision.owners == {1: "a", 2: "b"}


def test_worker_whose_engine_is_full_gets_a_segment_only_when_all_are_full() -> None:
    full = {A.host: room(0.5), B.host: room(4)}

    assert decide([segment(1), segment(2)], [A, B], full).owners == {1: "b", 2: "b"}
    assert decide([segment(1)], [A], full).owners == {1: "a"}


def test_above_the_target_segments_go_to_the_worker_with_most_room() -> None:
    rooms = {A.host: room(20), B.host: room(90)}
    segments = [segment(1, by=A), segment(2, by=B), segment(3), segment(4)]

    decision = decide(segments, [holding(A, 1), holding(B, 2)], rooms, target=1)

    assert decision.given == {"a": {1}, "b": {2, 3, 4}}


def test_before_workers_have_settled_segments_without_an_owner_wait() -> None:
    decision = decide([segment(1, by=A), segment(2)], [holding(A, 1), B], settled=False)

    assert decision.owners == {1: "a"}
    assert decision.waiting == [2]


def test_worker_of_an_older_version_owns_one_segment_at_most() -> None:
    old = replace(A, at_most=1)

    assert decide([segment(1), segment(2), segment(3)], [old, B]).given == {"a": {1}, "b": {2, 3}}
    assert decide([segment(1), segment(2)], [old]).waiting == [2]


def test_worker_of_an_older_version_first_gives_back_what_it_holds() -> None:
    decision = decide([segment(1, bots=0, by=A), segment(2)], [replace(holding(A, 1), at_most=1)])

    assert decision.owners == {}
    assert decision.waiting == [2]


# ---- keeping


def test_segment_without_entities_is_unassigned() -> None:
    decision = decide([segment(1, bots=0, by=A)], [holding(A, 1)])

    assert decision.owners == {}
    assert decision.reasons == {"a": "segment 1 no longer has entities"}


def test_worker_keeps_the_segments_whose_leases_it_holds() -> None:
    decision = decide([segment(1), segment(8, by=B), segment(9, by=B)], [A, holding(B, 8, 9)])

    assert decision.given == {"a": {1}, "b": {8, 9}}


def test_segments_below_the_target_never_move_to_be_even() -> None:
    segments = [segment(number, by=A) for number in range(4)]

    assert decide(segments, [holding(A, 0, 1, 2, 3), B], target=4).given == {"a": {0, 1, 2, 3}}


def test_reported_segment_stays_before_its_lease_is_read() -> None:
    decision = decide([segment(9)], [A, holding(B, 9)])

    assert decision.given == {"b": {9}}


def test_report_with_higher_epoch_takes_precedence() -> None:
    decision = decide([segment(9)], [holding(A, 9, epoch=1), holding(B, 9, epoch=2)])

    assert decision.given == {"b": {9}}


def test_reported_segment_moves_if_another_worker_holds_its_lease() -> None:
    decision = decide([segment(9, by=B)], [holding(A, 9), B])

    assert decision.given == {"b": {9}}
    assert decision.reasons["a"] == "segment 9 is held by b"


def test_a_segment_of_an_unknown_worker_is_reserved_until_its_lease_has_run_out() -> None:
    decision = decide([segment(1, by=C, remaining_seconds=2.5), segment(2, by=C, remaining_seconds=1.5)], [A])

    assert decision.owners == {}
    assert decision.reserved == {1: "c", 2: "c"}
    assert decision.next_expiry_seconds == 1.5


def test_a_worker_restarted_on_its_host_gets_its_segments_back() -> None:
    restarted = replace(B, instance_id="b-2")

    assert decide([segment(1, by=B), segment(2, by=B)], [A, restarted]).given == {"b": {1, 2}}


def test_a_worker_of_the_same_name_on_another_host_waits_for_the_lease() -> None:
    elsewhere = replace(B, instance_id="b-2", host="another")

    decision = decide([segment(1, by=B)], [elsewhere])

    assert decision.owners == {}
    assert decision.reserved == {1: "b"}


def test_a_draining_worker_gets_nothing_and_its_segments_are_reserved_while_it_holds_them() -> None:
    leaving = replace(holding(A, 1, 3), draining=True)

    decision = decide([segment(1, by=A), segment(2), segment(3, by=A)], [leaving, B])

    assert decision.owners == {2: "b"}
    assert decision.reserved == {1: "a", 3: "a"}
    assert decision.reasons["a"] == "this worker is shutting down"


def test_assignment_that_is_not_yet_acquired_stays() -> None:
    assigned = replace(B, assigned=frozenset([1]))

    assert decide([segment(1), segment(2)], [A, assigned]).owners == {1: "b", 2: "a"}


def test_a_worker_with_an_impediment_is_passed_over_but_keeps_what_it_holds() -> None:
    stuck = replace(A, assigned=frozenset([1]), impediment="the database is out of reach")
    hindered = replace(holding(B, 2), impediment="the engine is down")

    decision = decide([segment(1), segment(2, by=B)], [stuck, hindered, C])

    assert decision.given == {"b": {2}, "c": {1}}
    assert decision.reasons["a"] == "this worker cannot take segment 1 now: the database is out of reach"


def test_segment_that_a_worker_refuses_goes_to_another_and_the_rest_stays() -> None:
    refusing = replace(A, assigned=frozenset([1, 2]), refused={1: "its keepalive cannot be written"})

    decision = decide([segment(1), segment(2)], [refusing, B])

    assert decision.owners == {1: "b", 2: "a"}
    assert decision.reasons["a"] == "this worker cannot take segment 1 now: its keepalive cannot be written"


def test_segment_that_every_worker_refuses_waits() -> None:
    decision = decide([segment(1), segment(2)], [replace(A, refused={1: "it is missing"})])

    assert decision.owners == {2: "a"}
    assert decision.waiting == [1]


# ---- moving


def test_segment_that_its_worker_did_not_acquire_in_time_goes_to_another() -> None:
    late = replace(A, assigned=frozenset({1, 2}), overdue=frozenset({1}))

    decision = decide([segment(1), segment(2)], [late, B])

    assert decision.owners == {1: "b", 2: "a"}
    assert decision.reasons == {"a": "this worker did not acquire segment 1 in time"}


def test_reported_segment_that_was_not_acquired_in_time_is_ignored() -> None:
    false = replace(holding(A, 1), overdue=frozenset({1}))

    assert decide([segment(1)], [false, B]).owners == {1: "b"}
    assert decide([segment(1, by=A)], [false, B]).owners == {1: "a"}


def test_segment_that_was_not_acquired_in_time_stays_where_no_other_worker_can_take_it() -> None:
    late = replace(A, assigned=frozenset({1}), overdue=frozenset({1}))

    for other in (replace(B, impediment="no engine"), replace(B, overdue=frozenset({1}))):
        assert decide([segment(1), segment(2)], [late, other]).owners[1] == "a"


def test_segment_is_not_spread_to_worker_that_missed_it() -> None:
    late = replace(B, overdue=frozenset({1, 2}))

    decision = decide([segment(1, by=A), segment(2, by=A)], [holding(A, 1, 2), late], target=1)

    assert decision.given == {"a": {1, 2}}


def test_segments_above_the_target_move_to_a_worker_that_has_come() -> None:
    segments = [segment(1, bots=5, by=A), segment(2, bots=2, by=A), segment(3, bots=9, by=A)]

    decision = decide(segments, [holding(A, 1, 2, 3), B], target=2)

    assert decision.given == {"a": {1, 3}, "b": {2}}
    assert decision.reasons == {"a": "segment 2 moves to b"}


def test_segment_above_the_target_stays_where_no_engine_below_it_has_room() -> None:
    segments = [segment(1, by=A), segment(2, bots=5, by=A)]
    small = with_need(holding(A, 1, 2), None, s1=50, s2=50)

    assert decide(segments, [small, B], {B.host: room(4)}, target=1).given == {"a": {1, 2}}
    assert decide(segments, [small, B], {B.host: room(5)}, target=1).given["b"]


def test_segment_that_moves_stays_assigned_while_it_is_given_back() -> None:
    giving_back = replace(holding(A, 1, 2), assigned=frozenset([1]))

    decision = decide([segment(1, by=A), segment(2, by=A)], [giving_back, replace(B, assigned=frozenset([2]))])

    assert decision.given == {"a": {1}, "b": {2}}


def taken_over(view: WorkerView, segment_id: int) -> WorkerView:
    held = tuple(replace(one, taken_over=one.segment_id == segment_id) for one in view.held)
    return replace(view, held=held, assigned=(view.assigned or frozenset()) - {segment_id})


def test_segment_that_a_neighbour_took_over_stays_there_although_it_was_assigned_elsewhere() -> None:
    # A died and came back under its name, and was assigned its segment before B reported it.
    neighbour = taken_over(holding(B, 1, 2, epoch=2), 2)

    decision = decide([segment(1, by=B), segment(2, by=B)], [replace(A, assigned=frozenset([2])), neighbour])

    assert decision.given == {"b": {1, 2}}


def test_segment_that_a_neighbour_took_over_is_given_to_no_other_worker_before_its_lease_is_read() -> None:
    dead = worker("dead")
    neighbour = taken_over(holding(B, 2, epoch=2), 2)

    decision = decide([segment(2, by=dead)], [A, neighbour])

    assert decision.owners == {}
    assert decision.reserved == {2: "dead"}
    assert decide([segment(2, by=B)], [A, neighbour]).owners == {2: "b"}


def test_segment_that_moved_to_a_worker_that_is_gone_stays_with_its_holder() -> None:
    giving_back = replace(holding(A, 1, 2), assigned=frozenset([1]))

    assert decide([segment(1, by=A), segment(2, by=A)], [giving_back]).given == {"a": {1, 2}}


def test_holder_that_registers_with_a_new_master_keeps_what_was_assigned_elsewhere() -> None:
    unknown = replace(holding(A, 1), assigned=None)

    assert decide([segment(1, by=A)], [unknown, replace(B, assigned=frozenset([1]))]).owners == {1: "a"}


def test_entity_that_waits_for_room_moves_with_its_segment_to_an_engine_that_has_it() -> None:
    full = with_need(holding(A, 1, 2), lacking=1, s1=30, s2=20)
    segments = [segment(1, bots=3, by=A), segment(2, bots=2, by=A)]

    decision = decide(segments, [full, B], {A.host: room(0), B.host: room(3)})

    assert decision.owners == {1: "b", 2: "a"}
    assert decision.moves == [Move(1, A.host, B.host)]


def test_another_segment_moves_when_the_one_that_waits_for_room_is_too_large() -> None:
    full = with_need(holding(A, 1, 2, 3), lacking=1, s1=50, s2=20, s3=10)
    segments = [segment(number, by=A) for number in (1, 2, 3)]

    decision = decide(segments, [full, B], {A.host: room(0), B.host: room(2)})

    assert decision.owners == {1: "a", 2: "b", 3: "a"}


def test_nothing_moves_for_room_to_another_worker_of_the_same_engine() -> None:
    full = with_need(holding(A, 1), lacking=1, s1=30)
    neighbour = replace(B, host=A.host)

    assert decide([segment(1, by=A)], [full, neighbour], {A.host: room(5)}).moves == []


def test_one_segment_moves_at_a_time_and_its_engines_rest_meanwhile() -> None:
    full = with_need(holding(A, 1, 2), lacking=1, s1=30, s2=30)
    segments = [segment(1, by=A), segment(2, by=A)]
    rooms = {A.host: room(0), B.host: room(9)}
    assert decide(segments, [full, B], rooms, resting_hosts=[A.host]).moves == []
    assert decide(segments, [full, B], rooms, resting_hosts=[B.host]).moves == []
    first = decide(segments, [full, B], rooms)
    assert len(first.moves) == 1

    again = decide(segments, carried_out(first, [full, B]), rooms)

    assert again.moves == []
    assert again.owners == first.owners


def test_nothing_is_spread_to_an_engine_where_an_entity_waits_for_room() -> None:
    full = with_need(holding(A, 1), lacking=1, s1=90)
    above = with_need(holding(B, 2, 3, 4), lacking=None, s2=10, s3=10, s4=10)
    segments = [segment(1, by=A), *(segment(number, by=B) for number in (2, 3, 4))]

    decision = decide(segments, [full, above], {A.host: room(2), B.host: room(0)}, target=2)

    assert decision.given == {"a": {1}, "b": {2, 3, 4}}


def test_nothing_is_spread_between_engines_that_rest_after_a_move() -> None:
    segments = [segment(1, by=A), *(segment(number, by=B) for number in (2, 3, 4))]
    workers = [holding(A, 1), holding(B, 2, 3, 4)]

    assert decide(segments, workers, target=2, resting_hosts=[A.host]).given == {"a": {1}, "b": {2, 3, 4}}
    assert len(decide(segments, workers, target=2).given["a"]) == 2


def test_nothing_moves_to_a_worker_that_refused_a_segment_lately() -> None:
    above = holding(A, 1, 2, 3)
    segments = [segment(number, by=A) for number in (1, 2, 3)]
    unreliable = replace(B, refused_lately=True)

    assert decide(segments, [above, unreliable], target=2).given == {"a": {1, 2, 3}}
    assert decide([*segments, segment(4)], [above, unreliable], target=2).given == {"a": {1, 2, 3}, "b": {4}}


def test_engine_that_does_not_answer_gives_one_segment_up_to_another_engine_with_room() -> None:
    lost = replace(holding(A, 1, 2), engine_lost=True, impediment="no answer")
    segments = [segment(1, by=A), segment(2, by=A)]

    assert decide(segments, [lost, B], {B.host: room(1)}).given == {"a": {1}, "b": {2}}
    assert decide(segments, [lost, B], {B.host: room(0)}).moves == []
    assert decide(segments, [lost, replace(B, host=A.host)]).moves == []
    assert decide(segments, [lost, replace(B, engine_lost=True)]).moves == []
    assert decide(segments, [lost]).given == {"a": {1, 2}}


# ---- cordons


def cordoned(view: WorkerView) -> WorkerView:
    return replace(view, cordoned=True)


def drained(view: WorkerView) -> WorkerView:
    return replace(view, cordoned=True, drained=True)


def test_cordoned_worker_keeps_what_it_owns_and_is_given_nothing_new() -> None:
    kept = replace(cordoned(holding(A, 1)), assigned=frozenset([1, 2]))

    decision = decide([segment(1, by=A), segment(2), segment(3)], [kept, holding(B, 5, 6, 7)])

    assert decision.given == {"a": {1, 2}, "b": {3}}


def test_segment_waits_when_only_cordoned_workers_are_left() -> None:
    decision = decide([segment(1, by=A), segment(2)], [cordoned(holding(A, 1)), cordoned(B)])

    assert decision.owners == {1: "a"}
    assert decision.waiting == [2]


def test_cordoned_worker_that_restarted_takes_its_running_segments_over() -> None:
    restarted = replace(A, instance_id="a-2")

    assert decide([segment(1, by=A)], [cordoned(restarted), B]).owners == {1: "a"}
    assert decide([segment(1, by=A)], [drained(restarted), B]).owners == {1: "a"}


def test_nothing_moves_to_a_cordoned_worker() -> None:
    segments = [segment(1, by=A), segment(2, by=A)]
    full = with_need(holding(A, 1, 2), lacking=1, s1=30, s2=20)
    lost = replace(holding(A, 1, 2), engine_lost=True)
    rooms = {A.host: room(0), B.host: room(9)}

    assert decide(segments, [full, cordoned(B)], rooms, target=1).given == {"a": {1, 2}}
    assert decide(segments, [lost, cordoned(B)], rooms).given == {"a": {1, 2}}
    assert decide(segments, [drained(holding(A, 1, 2)), cordoned(B)], rooms).given == {"a": {1, 2}}


def test_drained_worker_gives_all_its_segments_to_workers_with_room() -> None:
    segments = [segment(1, by=A), segment(2, by=A), segment(3, by=A)]

    decision = decide(segments, [drained(holding(A, 1, 2, 3)), B, C], {B.host: room(5), C.host: room(5)})

    assert Counter(decision.owners.values()) in (Counter(b=2, c=1), Counter(b=1, c=2))
    assert decision.staying == {}
    assert {move.from_host for move in decision.moves} == {A.host}
    assert decision.reasons["a"].startswith("segment 1 moves to ")


def test_drained_worker_gives_its_segments_to_a_worker_at_its_target() -> None:
    decision = decide([segment(1, by=A), segment(2, by=B)], [drained(holding(A, 1)), holding(B, 2)], target=1)

    assert decision.owners == {1: "b", 2: "b"}


def test_drained_worker_gives_its_segments_to_a_neighbour_on_its_full_engine() -> None:
    neighbour = replace(B, host=A.host)
    resting = [A.host]

    decision = decide([segment(1, by=A)], [drained(holding(A, 1)), neighbour], {A.host: room(0)}, resting_hosts=resting)

    assert decision.owners == {1: "b"}
    assert decision.moves == []


def test_segment_of_a_drained_worker_stays_where_no_other_worker_has_room() -> None:
    segments = [segment(1, by=A), segment(2, by=A)]
    full = drained(with_need(holding(A, 1, 2), None, s1=30 * MIB, s2=10 * MIB))
    rooms = {B.host: Room(Need(100 * MIB), Need(15 * MIB), Need(10 * MIB))}

    decision = decide(segments, [full, B], rooms)

    assert decision.owners == {1: "a", 2: "b"}
    assert decision.staying == {"a": {1: "it needs 30 MiB, the roomiest worker has 5 MiB (b)"}}


def test_segments_of_a_drained_worker_share_the_room_of_the_engine_that_they_move_to() -> None:
    segments = [segment(number, by=A) for number in (1, 2, 3)]
    three = drained(with_need(holding(A, 1, 2, 3), None, s1=20, s2=20, s3=20))

    decision = decide(segments, [three, B], {B.host: room(4)})

    assert Counter(decision.owners.values()) == {"b": 2, "a": 1}


def test_segments_of_a_drained_worker_stay_without_another_worker() -> None:
    alone = decide([segment(1, by=A)], [drained(holding(A, 1))])
    leaving = decide([segment(1, by=A)], [drained(holding(A, 1)), replace(B, draining=True)])

    assert alone.owners == leaving.owners == {1: "a"}
    assert alone.staying == leaving.staying == {"a": {1: "no other worker accepts segments"}}


def test_drain_between_engines_waits_while_one_of_them_rests() -> None:
    segments, workers = [segment(1, by=A)], [drained(holding(A, 1)), B]

    decision = decide(segments, workers, resting_hosts=[B.host])

    assert decision.owners == {1: "a"}
    assert decision.staying == {"a": {1: "it waits for earlier moves to complete"}}


def test_segments_of_a_drained_worker_whose_engine_does_not_answer_leave_it_one_at_a_time() -> None:
    lost = replace(drained(holding(A, 1, 2)), engine_lost=True)

    decision = decide([segment(1, by=A), segment(2, by=A)], [lost, B])

    assert Counter(decision.owners.values()) == {"a": 1, "b": 1}


def test_before_workers_have_settled_a_drained_worker_keeps_its_segments() -> None:
    assert decide([segment(1, by=A)], [drained(holding(A, 1)), B], settled=False).owners == {1: "a"}


def test_segment_that_moves_goes_on_to_a_worker_that_is_cordoned_meanwhile() -> None:
    giving_back = replace(drained(holding(A, 1)), assigned=frozenset())
    to = replace(B, assigned=frozenset([1]))

    assert decide([segment(1, by=A)], [giving_back, drained(to), C]).owners == {1: "b"}
    assert decide([segment(1)], [drained(A), cordoned(to)]).owners == {1: "b"}


# ---- properties

NAMES = [f"w{number}" for number in range(5)]
SEGMENTS = range(6)
CORDONS = [(False, False), (False, False), (True, False), (True, True)]


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[SegmentView], list[WorkerView], dict[str, Room]]:
    known = [worker(name, seniority) for seniority, name in enumerate(NAMES)]
    segments = []
    for number in draw(st.sets(st.sampled_from(SEGMENTS))):
        by = draw(st.none() | st.sampled_from(known))
        segments.append(segment(number, draw(st.integers(0, 2)), by, draw(st.floats(0.1, 5))))
    workers: list[WorkerView] = []
    claimed: set[tuple[int, int]] = set()
    for view in draw(st.lists(st.sampled_from(known), unique_by=lambda view: view.worker_id)):
        is_cordoned, is_drained = draw(st.sampled_from(CORDONS))
        demands = st.builds(
            Demand, st.builds(Need, st.integers(0, 30)), st.none() | st.builds(Need, st.integers(1, 20))
        )
        held = st.builds(HeldSegment, st.sampled_from(SEGMENTS), st.integers(1, 3), demands)
        at_most = draw(st.sampled_from([None, None, 1]))
        claims = draw(st.lists(held, max_size=at_most or 3, unique_by=lambda one: one.segment_id))
        # No two acquisitions of a segment have the same epoch.
        claims = [one for one in claims if (one.segment_id, one.epoch) not in claimed]
        claimed |= {(one.segment_id, one.epoch) for one in claims}
        workers.append(
            replace(
                view,
                held=tuple(claims),
                assigned=draw(st.none() | st.frozensets(st.sampled_from(SEGMENTS), max_size=3)),
                draining=draw(st.booleans()),
                impediment=draw(st.sampled_from(["", "", "no engine"])),
                refused=dict.fromkeys(draw(st.sets(st.sampled_from(SEGMENTS), max_size=1)), "no"),
                engine_lost=draw(st.sampled_from([False, False, True])),
                at_most=at_most,
                overdue=frozenset(draw(st.sets(st.sampled_from(SEGMENTS), max_size=2))),
                cordoned=is_cordoned,
                drained=is_drained,
                instance_id=draw(st.sampled_from([view.instance_id, "other"])),
                host=draw(st.sampled_from([view.host, "other"])),
            )
        )
    hosts = st.sampled_from([*(view.host for view in known), "other"])
    rooms = draw(st.dictionaries(hosts, st.builds(room, st.integers(-1, 5))))
    return segments, workers, rooms


Situation = tuple[list[SegmentView], list[WorkerView], dict[str, Room]]
targets = st.integers(1, 4)


def carried_out(decision: Decision, workers: list[WorkerView]) -> list[WorkerView]:
    given = decision.given
    return [replace(view, assigned=given.get(view.worker_id, frozenset())) for view in workers]


@given(situations(), targets, st.booleans())
def test_each_segment_with_entities_is_given_reserved_or_waiting_and_only_one_of_these(
    situation: Situation, target: int, settled: bool
) -> None:
    segments, workers, rooms = situation

    decision = decide(segments, workers, rooms, target=target, settled=settled)

    placed = [*decision.owners, *decision.reserved, *decision.waiting]
    assert sorted(placed) == sorted(view.segment_id for view in segments if view.bot_count > 0)


@given(situations(), targets)
def test_segment_under_live_lease_is_not_given_away_before_its_release(situation: Situation, target: int) -> None:
    segments, workers, rooms = situation
    leases = {view.segment_id: view.lease for view in segments}
    by_id = {view.worker_id: view for view in workers}
    holders = [(one.segment_id, view) for view in workers for one in view.held]

    for segment_id, worker_id in decide(segments, workers, rooms, target=target).owners.items():
        moves = any(held == segment_id and holder.may_take(leases[segment_id]) for held, holder in holders)
        assert moves or by_id[worker_id].may_take(leases[segment_id])
        assert not by_id[worker_id].draining


@given(situations(), targets)
def test_no_segment_waits_while_a_worker_can_take_it(situation: Situation, target: int) -> None:
    segments, workers, rooms = situation

    decision = decide(segments, workers, rooms, target=target)

    for segment_id in decision.waiting:
        assert not [
            view for view in workers if view.at_most is None and view.can_take(segment_id) and not view.cordoned
        ]


@given(situations(), targets)
def test_cordoned_workers_are_given_only_what_was_theirs(situation: Situation, target: int) -> None:
    segments, workers, rooms = situation
    leased = [(view.lease.holder.worker_id, view.segment_id) for view in segments if view.lease is not None]

    given = decide(segments, workers, rooms, target=target).given

    for view in workers:
        own = {held.segment_id for held in view.held} | (view.assigned or frozenset())
        own |= {segment_id for worker_id, segment_id in leased if worker_id == view.worker_id}
        assert not view.cordoned or given.get(view.worker_id, frozenset()) <= own


@given(situations(), targets)
def test_draining_leaves_no_segment_without_an_owner(situation: Situation, target: int) -> None:
    segments, workers, rooms = situation
    only_cordoned = [replace(view, drained=False) for view in workers]

    decision = decide(segments, workers, rooms, target=target)
    without = decide(segments, only_cordoned, rooms, target=target)

    assert (decision.waiting, decision.reserved) == (without.waiting, without.reserved)


@given(situations(), targets)
def test_segments_stay_with_drained_workers_only_with_a_reason(situation: Situation, target: int) -> None:
    segments, workers, rooms = situation

    decision = decide(segments, workers, rooms, target=target)

    kept = {view.worker_id: decision.given.get(view.worker_id) for view in workers if view.drained}
    for worker_id, staying in decision.staying.items():
        assert all(staying.values())
        assert (kept[worker_id] or frozenset()) <= staying.keys()


@given(situations(), targets)
def test_no_worker_is_given_more_than_it_can_own(situation: Situation, target: int) -> None:
    segments, workers, rooms = situation

    given = decide(segments, workers, rooms, target=target).given

    assert all(len(given.get(view.worker_id, ())) <= 1 for view in workers if view.at_most == 1)


@given(situations(), targets)
def test_deciding_again_changes_nothing(situation: Situation, target: int) -> None:
    segments, workers, rooms = situation
    decision = decide(segments, workers, rooms, target=target)
    resting = {host for move in decision.moves for host in (move.from_host, move.to_host)}

    again = decide(segments, carried_out(decision, workers), rooms, target=target, resting_hosts=resting)

    assert (again.owners, again.reserved, again.waiting) == (decision.owners, decision.reserved, decision.waiting)


def test_segment_that_another_worker_claims_with_a_higher_epoch_does_not_leave_a_lost_engine() -> None:
    lost, other = replace(holding(A, 1), engine_lost=True), holding(B, 1, epoch=2)

    assert decide([segment(1, by=A)], [lost, other, C]).owners == {1: "a"}


@given(situations().flatmap(lambda all_: st.tuples(st.just(all_), st.permutations(all_[0]), st.permutations(all_[1]))))
def test_the_order_of_the_input_does_not_matter(
    orders: tuple[Situation, list[SegmentView], list[WorkerView]],
) -> None:
    (segments, workers, rooms), other_segments, other_workers = orders

    assert decide(other_segments, other_workers, rooms, target=2) == decide(segments, workers, rooms, target=2)


# ---- rollouts


def of_template(view: WorkerView, template: str, started: int) -> WorkerView:
    return replace(view, template=template, started=started)


def test_segment_goes_to_a_worker_with_the_newest_template_though_another_has_fewer() -> None:
    old, new = of_template(A, "old", 1), of_template(B, "new", 2)

    decision = decide([segment(1, by=B), segment(2), segment(3)], [old, holding(new, 1)])

    assert decision.given == {"b": {1, 2, 3}}


def test_segment_goes_to_a_worker_with_an_old_template_when_those_with_the_newest_have_enough() -> None:
    old, new = of_template(A, "old", 1), of_template(B, "new", 2)

    assert decide([segment(1, by=B), segment(2)], [old, holding(new, 1)], target=1).given == {"a": {2}, "b": {1}}


def test_newest_template_is_that_of_the_last_worker_that_stays() -> None:
    first, last = of_template(A, "first", 1), replace(of_template(B, "undone", 2), draining=True)

    assert decide([segment(1)], [of_template(C, "undone", 0), first, last]).owners == {1: "a"}


def test_of_workers_with_equally_many_segments_the_one_that_started_last_gets_the_next() -> None:
    workers = [of_template(A, "t", 5), of_template(B, "t", 9), of_template(C, "t", 7)]

    assert decide([segment(1)], workers).owners == {1: "b"}


def test_rollout_moves_each_segment_once() -> None:
    owners = {
        number: holding(of_template(worker(f"old{number}", number), "old", number), number) for number in range(4)
    }
    idle = of_template(worker("idle", 9), "old", 9)
    moves: Counter[int] = Counter()
    for number in range(4):
        owner = owners[number]
        surge = [of_template(worker(f"new{one}", 20 + one), "new", 20 + one) for one in range(number + 1)]
        leaving = replace(owner, draining=True, held=(), assigned=frozenset())
        before = {one: owners[one].worker_id for one in owners if one != number}
        held = {one: before[one] for one in before}
        fleet = {view.worker_id: view for view in [idle, leaving, *surge, *(owners[one] for one in before)]}
        segments = [segment(one, by=fleet[held[one]]) if one in held else segment(one) for one in range(4)]

        decision = decide(segments, fleet.values(), target=1)

        for one, owner_id in decision.owners.items():
            if owner_id != owners[one].worker_id:
                moves[one] += 1
                owners[one] = holding(fleet[owner_id], one)
    assert moves == dict.fromkeys(range(4), 1)
    assert {view.template for view in owners.values()} == {"new"}


def test_without_a_standby_worker_a_segment_moves_to_a_busy_one_at_once_and_later_to_the_replacement() -> None:
    leaving, busy = replace(of_template(A, "t", 1), draining=True), holding(of_template(B, "t", 2), 1)
    segments = [segment(1, by=busy), segment(2)]
    owns_both = holding(busy, 1, 2)
    replacement = of_template(C, "t", 3)

    assert decide(segments, [leaving, busy], target=1).owners == {1: "b", 2: "b"}
    later = decide([segment(1, by=owns_both), segment(2, by=owns_both)], [owns_both, replacement], target=1)
    assert later.owners == {1: "b", 2: "c"}
