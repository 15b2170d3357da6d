"""A registered worker, as the assignment sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from libs.core.coordination import HeldSegment
from libs.core.leases.lease import LeaseView, SegmentView
from libs.core.placement import Labels, read


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A registered worker, as input of the assignment.

    Attributes:
        seniority: smaller for workers that registered earlier.
        held: the leases that it reports.
        assigned: the segments last assigned to it; None before the first decision about it.
        refused: segments that it cannot acquire now.
        at_most: how many segments it can own; None for no limit.
        cordoned: whether it is given no segment that it does not own yet.
        drained: whether its segments also move to other workers; implies *cordoned*.
        refused_lately: whether a segment that another worker holds should not move to it, since it may refuse that one
            too.
        overdue: segments that it was assigned and did not acquire in time; its reports about them are ignored.
        labels: what segments may require of it.
        template: what it was made from; workers with the newest one outlive the others in a rollout.
        started: when its process started, in Unix milliseconds.
    """

    worker_id: str
    instance_id: str
    host: str
    seniority: int
    held: tuple[HeldSegment, ...] = ()
    assigned: frozenset[int] | None = None
    draining: bool = False
    impediment: str = ""
    refused: Mapping[int, str] = field(default_factory=dict)
    engine_lost: bool = False
    at_most: int | None = None
    cordoned: bool = False
    drained: bool = False
    refused_lately: bool = False
    overdue: frozenset[int] = frozenset()
    labels: Labels = frozenset()
    template: str = ""
    started: int = 0

    def suits(self, segment: SegmentView) -> bool:
        """Return whether it has the labels that the segment's entities require."""
        return not segment.placement or read(segment.placement) <= self.labels

    def may_take(self, lease: LeaseView | None) -> bool:
        """Return whether a segment under *lease* is its own or free, so that it is acquired without waiting."""
        if lease is None:
            return True
        holder = lease.holder
        return holder.worker_id == self.worker_id and (
            holder.instance_id == self.instance_id or holder.host == self.host
        )

    @property
    def can_begin(self) -> bool:
        """Whether it can acquire a segment that it does not hold yet."""
        return not self.draining and not self.impediment and not self.engine_lost

    @property
    def is_open(self) -> bool:
        """Whether it can be given a segment that it did not own before."""
        return self.can_begin and not self.cordoned

    def can_take(self, segment_id: int) -> bool:
        """Return whether it can acquire *segment_id*, which it does not hold yet."""
        return self.can_begin and segment_id not in self.refused
