"""A snapshot of what a master knows, for the status API, the status page, the autoscaler and the metrics."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from libs.core.leases.lease import SegmentView
from libs.core.master.assignment import Decision
from libs.core.master.registry import Worker
from libs.core.placement import lacking, read
from libs.core.room import Demand, Room


class SegmentState(StrEnum):
    """The state of a segment."""

    OWNED = "owned"  # a worker holds its lease
    ASSIGNED = "assigned"  # assigned to a worker that does not hold it yet
    WAITING = "waiting"  # no worker can acquire it


class WorkerRole(StrEnum):
    """The state of a worker."""

    OWNING = "owning"  # it owns or is assigned segments
    STANDBY = "standby"
    CORDONED = "cordoned"  # it receives no new segments
    DRAINING = "draining"  # it is shutting down


@dataclass(frozen=True)
class SegmentStatus:
    """One segment with entities. *worker_id* owns it or is assigned it; None while it waits.

    *placement* are the labels that its worker must have.
    """

    segment_id: int
    bot_count: int
    state: SegmentState
    worker_id: str | None
    epoch: int | None
    placement: str = ""


@dataclass(frozen=True)
class WorkerStatus:
    """One known worker. *held* and *assigned* are segments; they differ while it acquires or releases one.

    *demands* is the need of each held segment's entities; *refused* are assigned segments that it cannot acquire now,
    with the reason; *room* is the free room of its engine. *cordoned*: an operator lets it receive no new segments;
    *drained*: its segments also move to other workers; *cordon_reason* is the operator's reason. *labels* are what
    segments may require of it. *template* is what it was made from, or its version.
    """

    worker_id: str
    instance_id: str
    host: str
    hostname: str
    version: str
    http_port: int
    role: WorkerRole
    held: Sequence[int]
    demands: Mapping[str, Demand]
    assigned: Sequence[int]
    refused: Mapping[str, str]
    running: int
    impediment: str
    engine_lost: bool
    room: Room | None
    silent_seconds: float
    connected_seconds: float
    cordoned: bool = False
    drained: bool = False
    cordon_reason: str = ""
    labels: Sequence[str] = ()
    template: str = ""

    @property
    def hindrance(self) -> str:
        """Why it acquires none or not all of its assigned segments, for users; empty without a hindrance."""
        wish = "drained" if self.drained else "cordoned" if self.cordoned else ""
        cordon = f"{wish}: {self.cordon_reason}" if wish and self.cordon_reason else wish
        return "; ".join(part for part in (cordon, self.impediment or "; ".join(self.refused.values())) if part)


@dataclass(frozen=True)
class MasterSnapshot:
    """What this master knows; dataclasses.asdict() of it is JSON.

    A standby master knows only the leader. *surveyed_seconds_ago* is None before the first read of MongoDB:
    then nothing is known about segments, and an empty list means nothing.
    """

    master_id: str
    leads: bool
    leader: str | None
    epoch: int | None
    surveyed_seconds_ago: float | None
    problem: str
    """Why segments cannot be read now; empty when they can."""
    notices: Sequence[str]
    """Notices for operators."""
    max_segment: int
    segments: Sequence[SegmentStatus]
    workers: Sequence[WorkerStatus]

    def segment_counts(self) -> dict[SegmentState, int]:
        """The number of segments with entities in each state."""
        counts = Counter(segment.state for segment in self.segments)
        return {state: counts[state] for state in SegmentState}

    def worker_counts(self) -> dict[WorkerRole, int]:
        """The number of workers in each role."""
        counts = Counter(worker.role for worker in self.workers)
        return {role: counts[role] for role in WorkerRole}


def segments_by_state(
    survey: Collection[SegmentView], decision: Decision, workers: Collection[Worker]
) -> dict[SegmentState, set[int]]:
    """Return the segments with entities in each state; fast for ten thousand of them."""
    occupied = {segment.segment_id for segment in survey if segment.bot_count > 0}
    # A moving segment is owned by the worker that still has to release it.
    held = {held.segment_id for worker in workers for held in worker.state.held} & decision.owners.keys()
    owned = occupied & (decision.reserved.keys() | held)
    assigned = occupied & decision.owners.keys() - owned
    return {
        SegmentState.OWNED: owned,
        SegmentState.ASSIGNED: assigned,
        SegmentState.WAITING: occupied - owned - assigned,
    }


def segment_statuses(
    survey: Collection[SegmentView], decision: Decision, workers: Collection[Worker]
) -> list[SegmentStatus]:
    """Return the segments with entities, by number."""
    by_state = segments_by_state(survey, decision, workers)
    states = {segment_id: state for state, segment_ids in by_state.items() for segment_id in segment_ids}
    held_epochs = {
        (held.segment_id, worker.identity.worker_id): held.epoch for worker in workers for held in worker.state.held
    }
    statuses = []
    for segment in survey:
        state = states.get(segment.segment_id)
        if state is None:
            continue
        worker_id = decision.reserved.get(segment.segment_id) or decision.owners.get(segment.segment_id)
        epoch = segment.lease.epoch if segment.lease is not None else None
        if worker_id is not None:
            epoch = held_epochs.get((segment.segment_id, worker_id), epoch)
        statuses.append(
            SegmentStatus(segment.segment_id, segment.bot_count, state, worker_id, epoch, segment.placement)
        )
    return statuses


def role_of(worker: Worker) -> WorkerRole:
    """Return the role of a worker."""
    if worker.state.draining:
        return WorkerRole.DRAINING
    if worker.cordon is not None:
        return WorkerRole.CORDONED
    return WorkerRole.OWNING if worker.state.held or worker.assigned else WorkerRole.STANDBY


def worker_status(worker: Worker, now: float) -> WorkerStatus:
    """Return the status of one worker; *now* by the registry's clock."""
    identity, state = worker.identity, worker.state
    return WorkerStatus(
        worker_id=identity.worker_id,
        instance_id=identity.instance_id,
        host=identity.host,
        hostname=identity.hostname,
        version=identity.version,
        http_port=identity.http_port,
        role=role_of(worker),
        held=sorted(state.held_ids),
        demands={str(held.segment_id): held.demand for held in state.held},
        assigned=sorted(worker.assigned),
        refused={str(segment_id): reason for segment_id, reason in state.refused.items()},
        running=state.running,
        impediment=state.impediment,
        engine_lost=state.engine_lost,
        room=state.room,
        silent_seconds=round(now - worker.last_heard, 3),
        connected_seconds=round(now - worker.registered_at, 3),
        cordoned=worker.cordon is not None,
        drained=worker.cordon is not None and worker.cordon.drain,
        cordon_reason=worker.cordon.reason if worker.cordon is not None else "",
        labels=[f"{key}={value}" for key, value in sorted(identity.labels)],
        template=identity.template or identity.version,
    )


def unplaced(known: MasterSnapshot) -> dict[int, str]:
    """Return what each segment that waits lacks, as text, if that is a worker with the labels of its placement."""
    workers = [read(",".join(worker.labels)) for worker in known.workers if worker.role != WorkerRole.DRAINING]
    waiting = [one for one in known.segments if one.state is SegmentState.WAITING and one.placement]
    return {one.segment_id: lacks for one in waiting if (lacks := lacking(one.placement, workers))}
