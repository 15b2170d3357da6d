"""How many segments and workers a master knows in which state, fast enough for ten thousand of each."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from libs.core.master.registry import Worker
from libs.core.master.room_report import RoomReport
from libs.core.master.status import SegmentState, WorkerRole, role_of


class Waits:
    """Since when segments with entities have had no owner, as one master has seen it."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    def note(self, segments: Mapping[SegmentState, Collection[int]], now: float) -> None:
        """How all segments with entities stand at *now*."""
        unowned = itertools.chain(segments[SegmentState.ASSIGNED], segments[SegmentState.WAITING])
        self._since = {segment_id: self._since.get(segment_id, now) for segment_id in unowned}

    def longest_seconds(self, now: float) -> float:
        """For how long the one that waits longest has waited; 0 when none does."""
        return max(0.0, now - min(self._since.values(), default=now))


@dataclass(frozen=True)
class MasterCounts:
    """How many there are of what, without saying which: a snapshot of ten thousand takes far longer.

    *surveyed_seconds_ago* is None, and nothing else known, as in MasterSnapshot.
    """

    leads: bool
    max_segment: int
    surveyed_seconds_ago: float | None
    segments: Mapping[SegmentState, int]
    workers: Mapping[WorkerRole, int]
    longest_wait_seconds: float
    room: RoomReport = field(default_factory=RoomReport)


def workers_by_role(workers: Iterable[Worker]) -> dict[WorkerRole, int]:
    """How many workers have each role."""
    counts = Counter(role_of(worker) for worker in workers)
    return {role: counts[role] for role in WorkerRole}
