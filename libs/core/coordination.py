"""What masters and workers tell each other, as values, and how those look on the wire."""

from contextlib import nullcontext
from dataclasses import dataclass, field

from google.protobuf.internal import api_implementation

from libs.core.lean_imports import hollow
from libs.core.tracing import Headers

# Messages that are written in Python and not in C: another megabyte, imported either way.
with hollow("google.protobuf.internal.python_message") if api_implementation.Type() == "upb" else nullcontext():
    from proto.runtime.v1 import coordination_pb2 as pb


@dataclass(frozen=True, slots=True)
class HeldSegment:
    """A segment whose lease a worker holds, as far as it knows."""

    segment_id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """One worker process.

    *worker_id* may outlive the process (a restart under the same name), *instance_id* never does. *host* is the Docker
    engine on which its containers run. Of two processes with one worker id, the one that started last is the valid one.
    """

    worker_id: str
    instance_id: str
    host: str
    hostname: str = ""
    version: str = ""
    http_port: int = 0
    started_at_milliseconds: int = 0
    """Unix time."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """How it stands with a worker now.

    *running* counts its containers. *impediment* says, in words, why it cannot take a segment now; empty when it can.
    """

    held: HeldSegment | None = None
    running: int = 0
    draining: bool = False
    impediment: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The one segment that a worker should own, or None: it should own nothing and stand by. *reason* is for people.

    *trace* is that of the decision.
    """

    segment_id: int | None
    reason: str = ""
    trace: Headers = field(default_factory=dict, compare=False)


def state_to_wire(state: WorkerState) -> pb.WorkerState:
    """The message that says *state*."""
    message = pb.WorkerState(running=state.running, draining=state.draining, impediment=state.impediment)
    if state.held is not None:
        message.held.segment_id = state.held.segment_id
        message.held.epoch = state.held.epoch
    return message


def state_from_wire(message: pb.WorkerState) -> WorkerState:
    """The state that *message* says."""
    held = HeldSegment(message.held.segment_id, message.held.epoch) if message.HasField("held") else None
    return WorkerState(held, message.running, message.draining, message.impediment)


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
        state=state_to_wire(state),
    )


def register_from_wire(message: pb.Register) -> tuple[WorkerIdentity, WorkerState]:
    """Who registers, and how it stands with it."""
    identity = WorkerIdentity(
        worker_id=message.worker_id,
        instance_id=message.instance_id,
        host=message.host,
        hostname=message.hostname,
        version=message.version,
        http_port=message.http_port,
        started_at_milliseconds=message.started_at_milliseconds,
    )
    return identity, state_from_wire(message.state)


def assignment_to_wire(assignment: Assignment) -> pb.Assignment:
    """The message that says *assignment*."""
    return pb.Assignment(
        segment_id=assignment.segment_id,
        reason=assignment.reason,
        traceparent=assignment.trace.get("traceparent", ""),
    )


def assignment_from_wire(message: pb.Assignment) -> Assignment:
    """The assignment that *message* says."""
    trace = {"traceparent": message.traceparent} if message.traceparent else {}
    return Assignment(message.segment_id if message.HasField("segment_id") else None, message.reason, trace)
