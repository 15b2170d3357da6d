"""Explain why workers lose segments in an assignment, for users."""

from collections.abc import Iterable, Mapping

from libs.core.leases.lease import SegmentView
from libs.core.master.worker_view import WorkerView
from libs.core.placement import read, written


def reasons_of_losses(
    workers: Iterable[WorkerView],
    segments: Mapping[int, SegmentView],
    owners: Mapping[int, str],
    reserved: Mapping[int, str],
) -> dict[str, str]:
    """Return why each worker loses the lowest of the segments that it holds or was assigned and does not keep.

    Args:
        owners: segment to the worker that should own it.
        reserved: segment to the worker whose lease still runs.
    """
    reasons = {}
    for worker in workers:
        had = {held.segment_id for held in worker.held} | (worker.assigned or frozenset())
        lost = sorted(one for one in had if owners.get(one) != worker.worker_id)
        if lost:
            owner = owners.get(lost[0]) or reserved.get(lost[0])
            reasons[worker.worker_id] = _reason(worker, lost[0], segments.get(lost[0]), owner, lost[0] in owners)
    return reasons


def _reason(worker: WorkerView, segment_id: int, segment: SegmentView | None, owner: str | None, is_given: bool) -> str:
    is_held = any(held.segment_id == segment_id for held in worker.held)
    if worker.draining:
        return "this worker is shutting down"
    if segment is None or segment.bot_count <= 0:
        return f"segment {segment_id} no longer has entities"
    if not worker.suits(segment):
        lacking = written(read(segment.placement) - worker.labels)
        return f"this worker lacks the labels {lacking}, which segment {segment_id} needs"
    if segment_id in worker.overdue and segment.lease is None:
        return f"this worker did not acquire segment {segment_id} in time"
    if worker.impediment and not is_held:
        return f"this worker cannot take segment {segment_id} now: {worker.impediment}"
    if segment_id in worker.refused and not is_held:
        return f"this worker cannot take segment {segment_id} now: {worker.refused[segment_id]}"
    if is_given and is_held and worker.may_take(segment.lease):
        return f"segment {segment_id} moves to {owner}"
    return f"segment {segment_id} is held by {owner or 'no worker'}"
