"""The master's gRPC server: one stream per worker, and the standard health service. It decides nothing."""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from libs.core.coordination import (
    LEADER_ADDRESS,
    Assignment,
    WorkerIdentity,
    WorkerState,
    assignment_to_wire,
    register_from_wire,
    state_from_wire,
)
from libs.core.master.registry import SessionId
from libs.core.master.worker_stream import Unproven, WorkerStream
from libs.core.observability.grpc_metrics import ServerMetrics
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe
from libs.core.observability.tracing import Attributes, SpanKind, span, trace_of
from libs.core.process.isolation import repeat
from libs.core.queries.messages import Query, QueryAnswer
from libs.core.queries.wire import answer_from_wire, query_to_wire
from libs.core.transport.grpc_listener import GrpcListener
from libs.core.transport.peer_limits import PeerLimits, address_of
from libs.core.transport.pod_tokens import PodProofs, PodTokenRefused, ProvenPod
from libs.core.transport.security import StreamRefused, TransportSecurity
from libs.core.transport.worker_key import new_challenge, proves
from proto.runtime.v1 import coordination_pb2 as pb
from proto.runtime.v1 import coordination_pb2_grpc as pb_grpc

log = get_logger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["CoordinationService"].full_name

_OPTIONS = [
    # Two masters on one port would each receive some of the workers, unnoticed.
    ("grpc.so_reuseport", 0),
    # Detects a worker's machine that vanished; a frozen worker is detected by its missing heartbeats.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # After a restart all workers connect at once; beyond these numbers gRPC drops streams that wait to be accepted.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 50_000),
    # Workers ping as well, at their own intervals.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
]
_CHECK_SECONDS = 2.0
_FIRST_MESSAGE_SECONDS = 1.0
_QUERY_ID_BYTES = 16


class Coordinator(Protocol):
    """Receives the events of streams. All methods are fast and do not wait."""

    @property
    def leads(self) -> bool:
        """Whether workers are accepted."""

    @property
    def leader(self) -> str | None:
        """The leader, for the error message."""

    async def leader_addresses(self) -> Sequence[str]:
        """Return the addresses at which the leader listens for workers, ``host:port``; waits for a second at most."""

    def is_bound(self, worker_id: str, public_key: bytes) -> bool:
        """Whether the worker id belongs to this key, which is that of a live lease or of a registered worker."""

    def register(self, session: SessionId, identity: WorkerIdentity, state: WorkerState) -> None:
        """Handle a registration on this stream."""

    def heartbeat(self, session: SessionId, state: WorkerState) -> None:
        """Handle a heartbeat."""

    def leave(self, session: SessionId) -> None:
        """Handle the end of the stream."""


class CoordinationServer(pb_grpc.CoordinationServiceServicer):
    """Listens for workers and forwards their messages.

    Args:
        address: where to listen, ``host:port``; port 0 selects a free one.
        heartbeat_interval_seconds, death_timeout_seconds: sent to workers at registration.
        security: what it proves to workers, and requires of them.
        pods: what it requires of the tokens of worker pods.
        limits: of streams; a stream is one worker.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        master_id: str,
        address: str,
        *,
        heartbeat_interval_seconds: float,
        death_timeout_seconds: float,
        security: TransportSecurity | None = None,
        pods: PodProofs | None = None,
        limits: PeerLimits | None = None,
        connection_limits: PeerLimits | None = None,
    ) -> None:
        self._coordinator = coordinator
        self._address = address
        self._security = security or TransportSecurity()
        self._pods = pods or PodProofs()
        self._limits = limits or PeerLimits()
        self._listener = GrpcListener(
            address,
            self._security,
            self._add_services,
            options=_OPTIONS,
            interceptors=[ServerMetrics()],
            limits=connection_limits or PeerLimits(),
        )
        self._checking: asyncio.Task[None] | None = None
        self._registered = pb.MasterMessage(
            registered=pb.Registered(
                master_id=master_id,
                heartbeat_interval_milliseconds=round(heartbeat_interval_seconds * 1000),
                death_timeout_milliseconds=round(death_timeout_seconds * 1000),
            )
        )
        self._register_within_seconds = 2 * death_timeout_seconds
        self._streams: dict[SessionId, WorkerStream] = {}
        self._queries: dict[bytes, tuple[SessionId, asyncio.Future[QueryAnswer | None]]] = {}
        self._numbers = itertools.count(1)
        self._health = health.aio.HealthServicer()
        self._listens = False
        self.is_ready = False
        """The health status of the process."""

    @property
    def port(self) -> int:
        """The port on which it listens; 0 before that."""
        return self._listener.port if self._listens else 0

    async def start(self) -> None:
        """Listen. The health service reports NOT_SERVING until serve(True) or ready(True).

        Raises:
            PortTaken: the address is in use.
        """
        await self.serve(False)
        await self._listener.start()
        self._listens = True
        checking = repeat("check tokens", self._check_tokens, _CHECK_SECONDS)
        self._checking = asyncio.create_task(checking, name="check tokens")
        log.info("listening for workers", address=self._address, port=self.port, tls=self._security.mode)

    async def stop(self, grace_seconds: float = 1.0) -> None:
        """End all streams and stop listening. May be repeated."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait([self._checking])
        if self._listens:
            self._listens = False
            await self.serve(False)
            self.end_all("this master is shutting down")
            await self._listener.stop(grace_seconds)

    async def serve(self, serving: bool) -> None:
        """Set whether this master leads: the health status of the service and of the process."""
        await self._health.set(SERVICE, _health(serving))
        await self.ready(serving)

    async def ready(self, is_ready: bool) -> None:
        """Set the health status of the process, which a standby has as well."""
        self.is_ready = is_ready
        await self._health.set("", _health(is_ready))

    def send_assignment(self, session: SessionId, assignment: Assignment) -> None:
        """Send an assignment; it replaces one that is still unsent. Ignored after the end of the stream."""
        self._put(session, pb.MasterMessage(assignment=assignment_to_wire(assignment)))

    def ask_to_register(self, session: SessionId) -> None:
        """Request another registration of the worker."""
        self._put(session, pb.MasterMessage(register_again=pb.RegisterAgain()))

    def replace(self, session: SessionId, by: WorkerIdentity) -> None:
        """End the stream because another process has the same worker id."""
        replaced = pb.Replaced(instance_id=by.instance_id, host=by.host, hostname=by.hostname)
        self._put(session, pb.MasterMessage(replaced=replaced))
        details = f"another process has registered as {by.worker_id!r} (on {by.hostname or by.host})"
        self._end(session, grpc.StatusCode.ALREADY_EXISTS, details)

    def abandon(self, session: SessionId) -> None:
        """End the stream of a worker that opened another one."""
        self._end(session, grpc.StatusCode.ABORTED, "this worker opened another stream")

    def refuse(self, session: SessionId, worker_id: str) -> None:
        """End the stream because its worker id belongs to another worker."""
        if (stream := self._streams.get(session)) is not None:
            details = (
                f"the worker id {worker_id!r} belongs to another worker, which has another key in its TEMP_DIR, as "
                "long as its lease lives; wait for its end, or set another WORKER_ID"
            )
            stream.refuse(grpc.StatusCode.PERMISSION_DENIED, details)

    async def ask(self, session: SessionId, query: Query) -> QueryAnswer | None:
        """Return the worker's answer to *query*; None when its stream ends before. The caller limits the time."""
        if (stream := self._streams.get(session)) is None:
            return None
        query_id = secrets.token_bytes(_QUERY_ID_BYTES)
        answered: asyncio.Future[QueryAnswer | None] = asyncio.get_running_loop().create_future()
        self._queries[query_id] = (session, answered)
        try:
            stream.put(pb.MasterMessage(query=query_to_wire(query, query_id)))
            return await answered
        finally:
            del self._queries[query_id]

    def end_all(self, reason: str) -> None:
        """End all streams because this master no longer leads; workers then look for the leader."""
        for stream in self._streams.values():
            stream.end(grpc.StatusCode.FAILED_PRECONDITION, reason)

    async def Coordinate(  # noqa: N802 - the protocol's name
        self, request_iterator: AsyncIterator[pb.WorkerMessage], context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> None:
        """Serve one worker's stream."""
        try:
            token = self._security.check(context)
        except StreamRefused as refused:
            await _refuse(context, request_iterator, refused.code, refused.details)
            return
        if not self._coordinator.leads:
            leader = self._coordinator.leader
            details = f"this master is not the leader; {leader} is" if leader else "this master is not the leader"
            addresses = await self._coordinator.leader_addresses()
            where = tuple((LEADER_ADDRESS, address) for address in addresses)
            await _first_message(request_iterator)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, details, where)
        address = address_of(context.peer())
        if (refusal := self._limits.admit(address)) is not None:
            await _refuse(context, request_iterator, grpc.StatusCode.RESOURCE_EXHAUSTED, refusal)
            return
        try:
            try:
                pod = await self._pods.check(context.invocation_metadata() or ())
            except PodTokenRefused as refused:
                await _refuse(context, request_iterator, grpc.StatusCode.UNAUTHENTICATED, str(refused))
                return
            await self._serve_stream(token, pod, request_iterator, context)
        finally:
            self._limits.release(address)

    async def Answer(  # noqa: N802 - the protocol's name
        self, request: pb.QueryAnswer, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.QueryAnswered:
        """Take a worker's answer to a query."""
        try:
            self._security.check(context)
        except StreamRefused as refused:
            await context.abort(refused.code, refused.details)
        _, answered = self._queries.get(request.query_id, (None, None))
        if answered is None or answered.done():
            await context.abort(grpc.StatusCode.NOT_FOUND, "no query with this id waits for an answer")
        else:
            answered.set_result(answer_from_wire(request))
        return pb.QueryAnswered()

    async def _serve_stream(
        self,
        token: str,
        pod: ProvenPod,
        request_iterator: AsyncIterator[pb.WorkerMessage],
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> None:
        stream = WorkerStream(SessionId(next(self._numbers)), trace_of(_metadata(context)), token, pod)
        self._streams[stream.session] = stream
        reading = asyncio.create_task(self._read(stream, request_iterator), name=f"stream {stream.session}")
        try:
            end = await stream.write_to(context)
        finally:
            reading.cancel()
            del self._streams[stream.session]
            for session, answered in self._queries.values():
                if session == stream.session and not answered.done():
                    answered.set_result(None)
            self._coordinator.leave(stream.session)
        if end.code is not grpc.StatusCode.OK:
            await context.abort(end.code, end.details)

    async def _read(self, stream: WorkerStream, messages: AsyncIterator[pb.WorkerMessage]) -> None:
        loop = asyncio.get_running_loop()
        details = f"no registration within {self._register_within_seconds:g} s"
        stream.register_by = loop.call_later(
            self._register_within_seconds, stream.end, grpc.StatusCode.DEADLINE_EXCEEDED, details
        )
        try:
            async for message in messages:
                self._receive(stream, message)
            stream.end(grpc.StatusCode.OK, "the worker closed its stream")
        except grpc.RpcError:
            # The connection broke; gRPC cancels the stream's handler as well.
            stream.end(grpc.StatusCode.CANCELLED, "the stream broke")
        except Exception:
            log.exception("a worker's message could not be handled", session=stream.session)
            stream.end(grpc.StatusCode.INTERNAL, "the message could not be handled")
        finally:
            stream.register_by.cancel()

    async def _check_tokens(self) -> None:
        """End the streams of workers whose token is not accepted any more."""
        for stream in list(self._streams.values()):
            if not self._security.tokens.accepts(stream.token):
                stream.end(grpc.StatusCode.UNAUTHENTICATED, "the token of this worker was replaced")

    def _add_services(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_CoordinationServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)

    def _receive(self, stream: WorkerStream, message: pb.WorkerMessage) -> None:
        kind = message.WhichOneof("kind")
        with observe("grpc", f"receive {kind}" if kind is not None else "receive other"):
            self._take(stream, kind, message)

    def _take(self, stream: WorkerStream, kind: str | None, message: pb.WorkerMessage) -> None:
        match kind:
            case "heartbeat" if stream.unproven is not None:
                stream.unproven.state = state_from_wire(message.heartbeat)
            case "heartbeat":
                self._coordinator.heartbeat(stream.session, state_from_wire(message.heartbeat))
            case "register":
                self._challenge(stream, *register_from_wire(message.register))
            case "proof" if stream.unproven is not None:
                self._check(stream, stream.unproven, message.proof.signature)
            case _:
                stream.end(grpc.StatusCode.INVALID_ARGUMENT, "a registration requires worker_id and instance_id")

    def _challenge(self, stream: WorkerStream, identity: WorkerIdentity, state: WorkerState) -> None:
        stream.unproven = None
        if not identity.worker_id or not identity.instance_id:
            stream.end(grpc.StatusCode.INVALID_ARGUMENT, "a registration requires worker_id and instance_id")
        elif not identity.public_key:
            self._register(stream, identity, state)
        else:
            stream.unproven = Unproven(new_challenge(), identity, state)
            stream.put(pb.MasterMessage(challenge=pb.Challenge(nonce=stream.unproven.challenge)))

    def _check(self, stream: WorkerStream, unproven: Unproven, signature: bytes) -> None:
        identity, stream.unproven = unproven.identity, None
        if proves(identity.public_key, signature, unproven.challenge, identity.worker_id, identity.instance_id):
            self._register(stream, identity, unproven.state)
        else:
            log.warning("worker refused: it did not prove its key", worker=identity.worker_id)
            stream.refuse(grpc.StatusCode.PERMISSION_DENIED, "the signature is not by the key of the registration")

    def _register(self, stream: WorkerStream, identity: WorkerIdentity, state: WorkerState) -> None:
        if stream.pod.name is not None and stream.pod.name != identity.worker_id:
            log.warning("worker refused: its pod has another name", worker=identity.worker_id, pod=stream.pod.name)
            details = f"the worker id {identity.worker_id!r} is not the name of the worker's pod, {stream.pod.name!r}"
            stream.refuse(grpc.StatusCode.PERMISSION_DENIED, details)
            return
        if stream.pod.is_unchecked and not self._coordinator.is_bound(identity.worker_id, identity.public_key):
            details = "the API server of Kubernetes could not review the token of this worker's pod"
            stream.refuse(grpc.StatusCode.UNAVAILABLE, details)
            return
        if stream.register_by is not None:
            stream.register_by.cancel()
        stream.put(self._registered)
        about: Attributes = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": "Coordinate"}
        with span("register worker", parent=stream.trace, kind=SpanKind.SERVER, attributes=about) as made:
            made.set(worker=identity.worker_id)
            self._coordinator.register(stream.session, identity, state)

    def _put(self, session: SessionId, message: pb.MasterMessage) -> None:
        if (stream := self._streams.get(session)) is not None:
            stream.put(message)

    def _end(self, session: SessionId, code: grpc.StatusCode, details: str) -> None:
        if (stream := self._streams.get(session)) is not None:
            stream.end(code, details)


def _health(serving: bool) -> health_pb2.HealthCheckResponse.ServingStatus.ValueType:
    return health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING


async def _refuse(
    context: "grpc.aio.ServicerContext[Any, Any]",
    messages: AsyncIterator[pb.WorkerMessage],
    code: grpc.StatusCode,
    details: str,
) -> None:
    """End a stream with a reason that its worker reads."""
    log.warning("stream refused", peer=context.peer(), reason=details)
    await _first_message(messages)
    await context.abort(code, details)


async def _first_message(messages: AsyncIterator[pb.WorkerMessage]) -> None:
    """Wait for it: a client that sends it into an ended stream reports an internal error instead of the reason."""
    with contextlib.suppress(TimeoutError, StopAsyncIteration, grpc.RpcError):
        async with asyncio.timeout(_FIRST_MESSAGE_SECONDS):
            await anext(aiter(messages))


def _metadata(context: "grpc.aio.ServicerContext[Any, Any]") -> dict[str, str]:
    return {str(key): value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
