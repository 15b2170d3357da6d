"""Assignments that are not followed by a lease, in virtual time."""

from libs.core.leases.lease import Holder, LeaseView, SegmentView
from libs.core.master.unacquired import Unacquired

FREE = SegmentView(7, 1, None)
BY_A = SegmentView(7, 1, LeaseView(7, Holder("a", "a-1", "host"), 1, 4.0))
BY_B = SegmentView(7, 1, LeaseView(7, Holder("b", "b-1", "host"), 1, 4.0))
TO_A = {"a": [7]}


def test_assignment_without_a_lease_is_overdue_after_its_limit_and_not_before() -> None:
    unacquired = Unacquired()
    unacquired.assigned(TO_A, [FREE], told_at=100.0)

    assert unacquired.next_seconds(101.0) == 4.0
    assert unacquired.surveyed([FREE], read_at=104.9) == []
    assert unacquired.overdue(104.9) == {}
    assert unacquired.surveyed([FREE], read_at=105.0) == [("a", 7)]
    assert unacquired.overdue(105.0) == {"a": {7}}


def test_assignment_is_overdue_once_and_passed_over_for_a_while() -> None:
    unacquired = Unacquired()
    unacquired.assigned(TO_A, [FREE], told_at=100.0)
    unacquired.surveyed([FREE], read_at=105.0)

    assert unacquired.surveyed([FREE], read_at=106.0) == []
    assert unacquired.overdue(124.9) == {"a": {7}}
    assert unacquired.overdue(125.0) == {}
    assert unacquired.next_seconds(106.0) is None


def test_acquired_segment_is_not_overdue() -> None:
    unacquired = Unacquired()
    unacquired.assigned(TO_A, [FREE], told_at=100.0)

    assert unacquired.surveyed([BY_A], read_at=105.0) == []
    assert unacquired.next_seconds(105.0) is None


def test_time_under_the_lease_of_another_does_not_count() -> None:
    unacquired = Unacquired()
    unacquired.assigned(TO_A, [BY_B], told_at=100.0)
    assert unacquired.next_seconds(100.0) is None

    unacquired.surveyed([FREE], read_at=120.0)
    unacquired.assigned(TO_A, [FREE], told_at=120.0)

    assert unacquired.surveyed([FREE], read_at=124.9) == []
    assert unacquired.surveyed([FREE], read_at=125.0) == [("a", 7)]


def test_repeated_assignment_does_not_start_its_time_again() -> None:
    unacquired = Unacquired()
    for told_at in (100.0, 102.0, 104.0):
        unacquired.assigned(TO_A, [FREE], told_at)

    assert unacquired.surveyed([FREE], read_at=105.0) == [("a", 7)]


def test_segment_assigned_elsewhere_is_not_overdue_for_the_worker_that_had_it() -> None:
    unacquired = Unacquired()
    unacquired.assigned(TO_A, [FREE], told_at=100.0)
    unacquired.assigned({"b": [7]}, [FREE], told_at=103.0)

    assert unacquired.surveyed([FREE], read_at=105.0) == []
    assert unacquired.surveyed([FREE], read_at=108.0) == [("b", 7)]


def test_everything_is_forgotten_with_the_leadership() -> None:
    unacquired = Unacquired()
    unacquired.assigned(TO_A, [FREE], told_at=100.0)
    unacquired.surveyed([FREE], read_at=105.0)
    unacquired.assigned(TO_A, [FREE], told_at=105.0)

    unacquired.clear()

    assert (unacquired.overdue(105.0), unacquired.next_seconds(105.0)) == ({}, None)
