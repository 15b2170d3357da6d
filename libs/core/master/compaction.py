"""Decide which segment compaction empties next, and when. Pure: no clock, no database.

After a peak, segments stay half empty. A segment is emptied only if its entities fit into the free places of other
segments of the same placement, so that one segment less needs a worker. Its entities move one at a time. Nothing moves
unless the fleet was calm for a while: compaction must never add to a disturbance.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from libs.core.master.status import MasterSnapshot, SegmentState, WorkerRole, WorkerStatus
from libs.core.room import Need, Room, least_by_host

REST_SECONDS = 3600.0
"""How long an entity that moved, or was ordered to, does not move again."""


class Unsettled(StrEnum):
    """Why nothing moves now."""

    UNKNOWN = "segments cannot be read"
    SEGMENT_WITHOUT_OWNER = "a segment waits for its owner"
    SEGMENT_MOVES = "a segment moves to another worker"
    DRAIN = "a worker is drained or shuts down"
    ROLLOUT = "a rollout is in progress"
    WORKER_IMPEDED = "a worker cannot start containers"
    NO_ROOM = "an entity waits for room"


@dataclass(frozen=True)
class Segment:
    """A segment with entities and an owner.

    Attributes:
        is_open: whether its owner accepts entities: it is not cordoned.
        need: of all its entities, as its owner reports it.
    """

    segment_id: int
    entities: int
    worker_id: str
    host: str
    placement: str = ""
    is_open: bool = True
    need: Need = field(default_factory=Need)


@dataclass(frozen=True)
class Fleet:
    """The input of a decision. *rooms* is the free room of engines, by host; a missing one counts as unlimited."""

    segments: Sequence[Segment] = ()
    rooms: Mapping[str, Room] = field(default_factory=dict)
    unsettled: Unsettled | None = None

    @property
    def shape(self) -> Mapping[int, str]:
        """The owner of each segment; any change of it is a disturbance."""
        return {segment.segment_id: segment.worker_id for segment in self.segments}


@dataclass(frozen=True)
class Source:
    """A segment that can be emptied, and the segment to which its next entity moves."""

    segment_id: int
    entities: int
    target: int


def fleet_of(known: MasterSnapshot) -> Fleet:
    """Return the fleet as the leading master knows it."""
    if known.surveyed_seconds_ago is None or known.problem:
        return Fleet(unsettled=Unsettled.UNKNOWN)
    workers = {worker.worker_id: worker for worker in known.workers}
    unsettled = _unsettled(known)
    if unsettled is not None:
        return Fleet(unsettled=unsettled)
    segments = []
    for one in known.segments:
        owner = workers[one.worker_id or ""]
        demand = owner.demands.get(str(one.segment_id))
        segments.append(
            Segment(
                one.segment_id,
                one.bot_count,
                owner.worker_id,
                owner.host,
                one.placement,
                is_open=not owner.cordoned,
                need=demand.need if demand is not None else Need(),
            )
        )
    return Fleet(segments, least_by_host((worker.host, worker.room) for worker in known.workers))


def _unsettled(known: MasterSnapshot) -> Unsettled | None:
    """Return why *known* is not a fleet at rest; None when it is."""
    holders = {segment_id: worker.worker_id for worker in known.workers for segment_id in worker.held}
    if any(worker.role == WorkerRole.DRAINING or worker.drained for worker in known.workers):
        return Unsettled.DRAIN
    if _is_rollout(known.workers):
        return Unsettled.ROLLOUT
    if any(worker.impediment or worker.engine_lost or worker.refused for worker in known.workers):
        return Unsettled.WORKER_IMPEDED
    if any(one.state is not SegmentState.OWNED or one.segment_id not in holders for one in known.segments):
        return Unsettled.SEGMENT_WITHOUT_OWNER
    moves = any(sorted(worker.held) != sorted(worker.assigned) for worker in known.workers)
    if moves or any(holders[one.segment_id] != one.worker_id for one in known.segments):
        return Unsettled.SEGMENT_MOVES
    if any(demand.lacking is not None for worker in known.workers for demand in worker.demands.values()):
        return Unsettled.NO_ROOM
    return None


def _is_rollout(workers: Collection[WorkerStatus]) -> bool:
    """Whether workers of one kind, that is with the same labels, were made from different templates."""
    templates = defaultdict(set)
    for worker in workers:
        templates[tuple(worker.labels)].add(worker.template)
    return any(len(found) > 1 for found in templates.values())


def sources(fleet: Fleet, capacity: int) -> list[Source]:
    """Return the segments that can be emptied, the one with the fewest entities first.

    Args:
        capacity: maximum number of entities in a segment.
    """
    if fleet.unsettled is not None:
        return []
    by_size = sorted(fleet.segments, key=lambda one: (one.entities, -one.segment_id))
    found = []
    for segment in by_size:
        targets = [other for other in by_size if _takes(other, segment, fleet.rooms, capacity)]
        if sum(capacity - other.entities for other in targets) >= segment.entities:
            # The fullest one that takes it, so that free places come together; on the same engine if possible.
            best = max(targets, key=lambda one: (one.host == segment.host, one.entities, -one.segment_id))
            found.append(Source(segment.segment_id, segment.entities, best.segment_id))
    return found


def _takes(other: Segment, segment: Segment, rooms: Mapping[str, Room], capacity: int) -> bool:
    """Whether entities of *segment* may move to *other*."""
    if other.segment_id == segment.segment_id or other.placement != segment.placement or not other.is_open:
        return False
    # All of its need: for a single entity, that is never too little.
    room = rooms.get(other.host)
    fits = other.host == segment.host or room is None or room.fits(segment.need)
    # Never to a segment with fewer entities: each move brings entities together, so none is made undone later.
    return segment.entities <= other.entities < capacity and fits


class Calm:
    """Measures how long the fleet has been at rest. Times are the caller's, in seconds.

    Args:
        seconds: for how long it must be at rest before a move, and between moves.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None
        self._shape: Mapping[int, str] = {}

    def lasts(self, fleet: Fleet, now: float) -> bool:
        """Note *fleet* as of *now*; return whether it was at rest long enough."""
        if fleet.unsettled is not None or fleet.shape != self._shape:
            self._since, self._shape = None, fleet.shape
        if fleet.unsettled is None and self._since is None:
            self._since = now
        return self._since is not None and now - self._since >= self._seconds

    def disturbed(self) -> None:
        """Begin again, as after an order."""
        self._since = None
