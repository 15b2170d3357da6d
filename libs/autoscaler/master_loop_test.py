"""The master's snapshot as input of the autoscaler."""

from libs.autoscaler.fleet import Placed
from libs.autoscaler.master_loop import fleet_of
from libs.core.coordination import HeldSegment, WorkerIdentity, WorkerState
from libs.core.master.registry import SessionId, Worker
from libs.core.master.status import MasterSnapshot, SegmentState, SegmentStatus, worker_status

STATIC = frozenset({("egress", "static-1")})


def test_segments_with_a_placement_are_counted_by_their_labels() -> None:
    identity = WorkerIdentity("w", "w-1", "h", labels=STATIC)
    worker = Worker(SessionId(1), identity, WorkerState(held=(HeldSegment(3, 1),)), 1, 0.0, 0.0)
    segments = [
        SegmentStatus(1, 5, SegmentState.WAITING, None, None),
        SegmentStatus(2, 4, SegmentState.WAITING, None, None, "egress=static-1"),
        SegmentStatus(3, 2, SegmentState.OWNED, "w", 1, "egress=static-1"),
    ]
    known = MasterSnapshot("m", True, "m", 1, 0.0, "", [], 16, segments, [worker_status(worker, 0.0)])

    fleet = fleet_of(known)

    assert (fleet.segments_with_entities, fleet.unowned_entities) == (3, 9)
    assert fleet.placed == {STATIC: Placed(2, 4)}
    assert fleet.labels == {"w": STATIC}
    rest = fleet.only_for([frozenset()])
    assert (rest.segments_with_entities, rest.unowned_entities) == (1, 5)
    assert fleet.only_for([frozenset(), STATIC]) == fleet
