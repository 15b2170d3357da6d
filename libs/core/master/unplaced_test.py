"""What the status says about segments that wait for a worker with the labels of their placement."""

from libs.core.master.status import MasterSnapshot, SegmentState, SegmentStatus, WorkerRole, WorkerStatus, unplaced


def worker(role: WorkerRole, *labels: str) -> WorkerStatus:
    return WorkerStatus(
        worker_id="w", instance_id="i", host="h", hostname="", version="", http_port=0, role=role, held=(), demands={},
        assigned=(), refused={}, running=0, impediment="", engine_lost=False, room=None, silent_seconds=0.0,
        connected_seconds=0.0, labels=labels,
    )  # fmt: skip


def known(segments: list[SegmentStatus], workers: list[WorkerStatus]) -> MasterSnapshot:
    return MasterSnapshot(
        master_id="m", leads=True, leader="m", epoch=1, surveyed_seconds_ago=0.0, problem="", notices=(),
        max_segment=16, segments=segments, workers=workers,
    )  # fmt: skip


def waiting(segment_id: int, placement: str) -> SegmentStatus:
    return SegmentStatus(segment_id, 1, SegmentState.WAITING, None, None, placement)


def test_waiting_segment_names_the_label_that_no_worker_has() -> None:
    found = unplaced(known([waiting(1, "egress=a"), waiting(2, "")], [worker(WorkerRole.OWNING, "egress=b")]))

    assert found == {1: "needs a worker with the label egress=a, which no worker has"}


def test_segment_that_waits_although_a_worker_has_its_labels_lacks_none() -> None:
    assert unplaced(known([waiting(1, "egress=a")], [worker(WorkerRole.STANDBY, "egress=a")])) == {}


def test_worker_that_shuts_down_does_not_count() -> None:
    assert 1 in unplaced(known([waiting(1, "egress=a")], [worker(WorkerRole.DRAINING, "egress=a")]))


def test_segment_with_an_owner_waits_for_nothing() -> None:
    owned = SegmentStatus(1, 1, SegmentState.OWNED, "w", 1, "egress=a")

    assert unplaced(known([owned], [worker(WorkerRole.OWNING)])) == {}
