"""Which worker should own which segment: one pure function over what is known."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from libs.core.coordination import HeldSegment
from libs.core.lease import LeaseView, SegmentView


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A registered worker, as far as assignment cares.

    *assigned* is what it was told last, *held* what it says that it holds. *seniority* is smaller the longer it has
    been here.
    """

    worker_id: str
    instance_id: str
    host: str
    seniority: int
    held: HeldSegment | None = None
    assigned: int | None = None
    draining: bool = False
    impediment: str = ""

    def may_take(self, lease: LeaseView | None) -> bool:
        """Whether a segment under *lease* is this worker's own or free; it can be acquired without waiting."""
        if lease is None:
            return True
        holder = lease.holder
        return holder.worker_id == self.worker_id and (
            holder.instance_id == self.instance_id or holder.host == self.host
        )

    @property
    def can_begin(self) -> bool:
        """Whether it can be given a segment that it does not hold yet."""
        return not self.draining and not self.impediment


@dataclass(frozen=True)
class Decision:
    """Who should own what. Segments without entities are nobody's."""

    given: Mapping[str, int]
    """Worker id to its segment; a worker that is not in it should own nothing."""
    reserved: Mapping[int, str]
    """Segments that nobody may be given yet, to the worker whose lease still runs: it is gone, leaving, or cut off."""
    waiting: Sequence[int]
    """Segments with entities and without a worker, lowest first: there are more segments than workers."""
    next_expiry_seconds: float | None
    """When the first of the reserved leases may run out; None when none is reserved."""
    reasons: Mapping[str, str]
    """Why a worker that has or had a segment is not in *given*, in words."""


def decide(segments: Iterable[SegmentView], workers: Iterable[WorkerView]) -> Decision:
    """Give each segment with entities to one worker and each worker one segment at most, moving as little as can be.

    A segment stays with the worker that holds its lease. One whose lease is somebody else's, registered or not, is
    given to nobody until that lease has run out. What is left goes lowest segment first to the workers that stand by,
    longest first. Draining workers get nothing; workers with an impediment keep what they hold. The same input gives
    the same decision, and deciding again after a decision was carried out changes nothing.
    """
    return _Deciding(segments, workers).run()


class _Deciding:
    """The steps of decide(), from the strongest claim to the weakest."""

    def __init__(self, segments: Iterable[SegmentView], workers: Iterable[WorkerView]) -> None:
        self.all_segments = {segment.segment_id: segment for segment in segments}
        # Sorted once: everything below is then in a fixed order.
        self.workers = sorted(workers, key=lambda worker: (worker.seniority, worker.worker_id))
        self.by_id = {worker.worker_id: worker for worker in self.workers}
        self.unowned = {
            segment_id: self.all_segments[segment_id]
            for segment_id in sorted(self.all_segments)
            if self.all_segments[segment_id].bot_count > 0
        }
        self.given: dict[str, int] = {}
        self.reserved: dict[int, str] = {}

    def run(self) -> Decision:
        self._keep_what_workers_hold()
        self._follow_the_leases()
        self._keep_what_was_assigned()
        self._fill_workers_that_stand_by()
        expiries = [
            lease.remaining_seconds
            for segment_id in self.reserved
            if (lease := self.all_segments[segment_id].lease) is not None
        ]
        return Decision(
            given=self.given,
            reserved=self.reserved,
            waiting=list(self.unowned),
            next_expiry_seconds=min(expiries, default=None),
            reasons=self._reasons(),
        )

    def _keep_what_workers_hold(self) -> None:
        # What a worker says can be newer than what was read (it has just acquired), or older (it was cut off): a live
        # lease of somebody else outweighs it, and so does a claim with a higher epoch.
        claims = [(worker.held.epoch, worker) for worker in self.workers if worker.held is not None]
        claims.sort(key=lambda claim: -claim[0])
        for _, worker in claims:
            assert worker.held is not None
            segment = self.unowned.get(worker.held.segment_id)
            if segment is None or not worker.may_take(segment.lease):
                continue
            if worker.draining:
                self._reserve(segment.segment_id, worker.worker_id)
            else:
                self._give(segment.segment_id, worker.worker_id)

    def _follow_the_leases(self) -> None:
        for segment_id, segment in list(self.unowned.items()):
            if segment.lease is None:
                continue
            worker = self.by_id.get(segment.lease.holder.worker_id)
            if worker is not None and worker.may_take(segment.lease) and self._stands_by(worker):
                self._give(segment_id, worker.worker_id)
            else:
                self._reserve(segment_id, segment.lease.holder.worker_id)

    def _keep_what_was_assigned(self) -> None:
        for worker in self.workers:
            if worker.assigned in self.unowned and self._stands_by(worker):
                self._give(worker.assigned, worker.worker_id)

    def _fill_workers_that_stand_by(self) -> None:
        idle = [worker for worker in self.workers if self._stands_by(worker)]
        # One list is used up before the other; what is left waits.
        for segment_id, worker in zip(list(self.unowned), idle, strict=False):
            self._give(segment_id, worker.worker_id)

    def _stands_by(self, worker: WorkerView) -> bool:
        # A worker that still holds another segment first has to give that back.
        return worker.can_begin and worker.held is None and worker.worker_id not in self.given

    def _give(self, segment_id: int, worker_id: str) -> None:
        del self.unowned[segment_id]
        self.given[worker_id] = segment_id

    def _reserve(self, segment_id: int, worker_id: str) -> None:
        del self.unowned[segment_id]
        self.reserved[segment_id] = worker_id

    def _reasons(self) -> dict[str, str]:
        owners = {segment_id: worker_id for worker_id, segment_id in self.given.items()} | self.reserved
        reasons = {}
        for worker in self.workers:
            had = worker.held.segment_id if worker.held is not None else worker.assigned
            if had is not None and worker.worker_id not in self.given:
                reasons[worker.worker_id] = self._why_taken(worker, had, owners)
        return reasons

    def _why_taken(self, worker: WorkerView, segment_id: int, owners: Mapping[int, str]) -> str:
        segment = self.all_segments.get(segment_id)
        if worker.draining:
            return "this worker is shutting down"
        if segment is None or segment.bot_count <= 0:
            return f"segment {segment_id} has no entities any more"
        if worker.impediment and worker.held is None:
            return f"this worker cannot take segment {segment_id} now: {worker.impediment}"
        return f"segment {segment_id} is held by {owners.get(segment_id, 'nobody')}"
