"""The messages between masters and workers, as values, and their form on the wire."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from libs.core.observability.tracing import Headers
from libs.core.placement import Labels, read
from libs.core.room import Demand, Need, Room
from proto.runtime.v1 import coordination_pb2 as pb

LEADER_ADDRESS = "leader-address"
"""Key in the metadata of a standby's refusal: ``host:port`` of the leader, once for each of its addresses."""


@dataclass(frozen=True, slots=True)
class HeldSegment:
    """A segment whose lease a worker holds, as last known, and what its entities need of the engine.

    *taken_over*: the worker acquired it from another one of its engine, with the running containers, and it is not
    assigned to it yet.
    """

    segment_id: int
    epoch: int
    demand: Demand = field(default_factory=Demand)
    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """One worker process.

    *worker_id* may outlive the process (a restart under the same name), *instance_id* does not. *host* is the Docker
    engine of its containers. Of two processes with one worker id, the later one is valid.
    """

    worker_id: str
    instance_id: str
    host: str
    hostname: str = ""
    version: str = ""
    http_port: int = 0
    started_at_milliseconds: int = 0
    """Unix time."""
    owns_several: bool = True
    """False for a worker of an older version, which owns one segment at most."""
    public_key: bytes = b""
    """The key to which the worker id belongs; empty for a worker of an older version."""
    labels: Labels = frozenset()
    """What entities may require of their worker; empty for a worker of an older version."""
    answers_queries: bool = False
    """False for a worker of an older version, and of a service without queries."""
    template: str = ""
    """The template of its pod; empty outside Kubernetes, where the version takes its place."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """The state that a worker reports with each heartbeat.

    Attributes:
        held: its leases.
        running: its containers.
        impediment: why it cannot take any segment now; empty when it can.
        refused: assigned segments that it cannot acquire now, with the reason.
        room: the free room of its engine; None while unknown.
        engine_lost: whether the engine has not answered for so long that the segments should move to another one.
    """

    held: tuple[HeldSegment, ...] = ()
    running: int = 0
    draining: bool = False
    impediment: str = ""
    refused: Mapping[int, str] = field(default_factory=dict)
    room: Room | None = None
    engine_lost: bool = False

    @property
    def held_ids(self) -> frozenset[int]:
        """The segments whose leases it holds."""
        return frozenset(held.segment_id for held in self.held)


@dataclass(frozen=True, slots=True)
class Assignment:
    """All segments that a worker should own; none means standby. *reason* is for users.

    *trace* is the trace of the decision.
    """

    segments: frozenset[int] = frozenset()
    reason: str = ""
    trace: Headers = field(default_factory=dict, compare=False)


def state_to_wire(state: WorkerState) -> pb.WorkerState:
    """Return the message for *state*."""
    held = [_held_to_wire(held) for held in state.held]
    return pb.WorkerState(
        held=held[0] if held else None,
        held_segments=held,
        running=state.running,
        draining=state.draining,
        impediment=state.impediment,
        refused_segments=[
            pb.RefusedSegment(segment_id=segment_id, reason=reason) for segment_id, reason in state.refused.items()
        ],
        room=_room_to_wire(state.room) if state.room is not None else None,
        engine_lost=state.engine_lost,
    )


def state_from_wire(message: pb.WorkerState) -> WorkerState:
    """Return the state in *message*, which may come from a worker of an older version."""
    held = message.held_segments or ([message.held] if message.HasField("held") else [])
    return WorkerState(
        held=tuple(_held_from_wire(one) for one in held),
        running=message.running,
        draining=message.draining,
        impediment=message.impediment,
        refused={refused.segment_id: refused.reason for refused in message.refused_segments},
        room=_room_from_wire(message.room) if message.HasField("room") else None,
        engine_lost=message.engine_lost,
    )


def register_to_wire(identity: WorkerIdentity, state: WorkerState) -> pb.Register:
    """The first message of a worker on its stream."""
    return pb.Register(
        worker_id=identity.worker_id,
        instance_id=identity.instance_id,
        host=identity.host,
        hostname=identity.hostname,
        version=identity.version,
        http_port=identity.http_port,
        started_at_milliseconds=identity.started_at_milliseconds,
        owns_several=identity.owns_several,
        public_key=identity.public_key,
        labels=[f"{key}={value}" for key, value in sorted(identity.labels)],
        answers_queries=identity.answers_queries,
        template=identity.template,
        state=state_to_wire(state),
    )


def register_from_wire(message: pb.Register) -> tuple[WorkerIdentity, WorkerState]:
    """The registering worker and its state."""
    identity = WorkerIdentity(
        worker_id=message.worker_id,
        instance_id=message.instance_id,
        host=message.host,
        hostname=message.hostname,
        version=message.version,
        http_port=message.http_port,
        started_at_milliseconds=message.started_at_milliseconds,
        owns_several=message.owns_several,
        public_key=message.public_key,
        labels=read(",".join(message.labels)),
        answers_queries=message.answers_queries,
        template=message.template,
    )
    return identity, state_from_wire(message.state)


def assignment_to_wire(assignment: Assignment) -> pb.Assignment:
    """Return the message for *assignment*."""
    segments = sorted(assignment.segments)
    return pb.Assignment(
        segment_id=segments[0] if segments else None,
        segment_ids=segments,
        reason=assignment.reason,
        traceparent=assignment.trace.get("traceparent", ""),
    )


def assignment_from_wire(message: pb.Assignment) -> Assignment:
    """Return the assignment in *message*, which may come from a master of an older version."""
    segments = message.segment_ids or ([message.segment_id] if message.HasField("segment_id") else [])
    trace = {"traceparent": message.traceparent} if message.traceparent else {}
    return Assignment(frozenset(segments), message.reason, trace)


def _held_to_wire(held: HeldSegment) -> pb.HeldSegment:
    demand = held.demand
    return pb.HeldSegment(
        segment_id=held.segment_id,
        epoch=held.epoch,
        need=_need_to_wire(demand.need),
        lacking=_need_to_wire(demand.lacking) if demand.lacking is not None else None,
        taken_over=held.taken_over,
    )


def _held_from_wire(message: pb.HeldSegment) -> HeldSegment:
    lacking = _need_from_wire(message.lacking) if message.HasField("lacking") else None
    demand = Demand(_need_from_wire(message.need), lacking)
    return HeldSegment(message.segment_id, message.epoch, demand, message.taken_over)


def _room_to_wire(room: Room) -> pb.Room:
    return pb.Room(total=_need_to_wire(room.total), free=_need_to_wire(room.free), entity=_need_to_wire(room.entity))


def _room_from_wire(message: pb.Room) -> Room:
    return Room(_need_from_wire(message.total), _need_from_wire(message.free), _need_from_wire(message.entity))


def _need_to_wire(need: Need) -> pb.Need:
    return pb.Need(memory_bytes=need.memory_bytes, cpus=need.cpus)


def _need_from_wire(message: pb.Need) -> Need:
    return Need(message.memory_bytes, message.cpus)
