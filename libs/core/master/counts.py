"""Count segments and workers by state, fast enough for ten thousand of each."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from libs.core.master.registry import Worker
from libs.core.master.room_report import RoomReport
from libs.core.master.status import SegmentState, WorkerRole, role_of


class Waits:
    """When each segment with entities lost its owner, as observed by this master."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    def note(self, segments: Mapping[SegmentState, Collection[int]], now: float) -> None:
        """Record the state of all segments with entities at *now*."""
        unowned = itertools.chain(segments[SegmentState.ASSIGNED], segments[SegmentState.WAITING])
        self._since = {segment_id: self._since.get(segment_id, now) for segment_id in unowned}

    def longest_seconds(self, now: float) -> float:
        """Return the wait of the longest-waiting segment; 0 when none waits."""
        return max(0.0, now - min(self._since.values(), default=now))


@dataclass(frozen=True)
class MasterCounts:
    """Numbers by state, without ids: a snapshot of ten thousand takes far longer.

    *surveyed_seconds_ago* is None before the first survey, as in MasterSnapshot; then nothing else is known.
    """

    leads: bool
    max_segment: int
    surveyed_seconds_ago: float | None
    segments: Mapping[SegmentState, int]
    workers: Mapping[WorkerRole, int]
    longest_wait_seconds: float
    room: RoomReport = field(default_factory=RoomReport)


def workers_by_role(workers: Iterable[Worker]) -> dict[WorkerRole, int]:
    """The number of workers in each role."""
    counts = Counter(role_of(worker) for worker in workers)
    return {role: counts[role] for role in WorkerRole}
