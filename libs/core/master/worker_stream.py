"""The stream of one worker at the master's gRPC server: what is to be written to it, and how it ends."""

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc

from libs.core.coordination import WorkerIdentity, WorkerState
from libs.core.master.registry import SessionId
from libs.core.observability.metrics import observe
from libs.core.observability.tracing import Headers
from libs.core.transport.pod_tokens import ProvenPod
from proto.runtime.v1 import coordination_pb2 as pb


@dataclass(frozen=True)
class End:
    """How a stream ends."""

    code: grpc.StatusCode
    details: str


@dataclass
class Unproven:
    """A registration, and the challenge that its worker has to sign."""

    challenge: bytes
    identity: WorkerIdentity
    state: WorkerState


class WorkerStream:
    """The messages to write to one worker: only the latest of each kind, and all queries."""

    def __init__(self, session: SessionId, trace: Headers, token: str, pod: ProvenPod) -> None:
        self.session = session
        self.trace = trace
        self.token = token
        self.pod = pod
        self.unproven: Unproven | None = None
        """The registration whose proof is expected."""
        self.register_by: asyncio.TimerHandle | None = None
        self._outgoing: dict[tuple[str | None, bytes], pb.MasterMessage] = {}
        self._end: End | None = None
        self._news = asyncio.Event()

    def put(self, message: pb.MasterMessage) -> None:
        """Write *message* soon, in place of an earlier one of its kind, or of the same query."""
        self._outgoing[message.WhichOneof("kind"), message.query.query_id] = message
        self._news.set()

    def refuse(self, code: grpc.StatusCode, details: str) -> None:
        """End the stream without the messages that are not written yet."""
        self._outgoing.clear()
        self.end(code, details)

    def end(self, code: grpc.StatusCode, details: str) -> None:
        """End the stream once all messages are written. The first call counts."""
        self._end = self._end or End(code, details)
        self._news.set()

    async def write_to(self, context: "grpc.aio.ServicerContext[Any, Any]") -> End:
        """Write queued messages until the stream is to end."""
        while True:
            while self._outgoing:
                message = self._outgoing.pop(next(iter(self._outgoing)))
                with observe("grpc", f"send {message.WhichOneof('kind')}"):
                    await context.write(message)
            if self._end is not None:
                return self._end
            self._news.clear()
            await self._news.wait()
