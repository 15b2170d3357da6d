"""The worker's stream to the master: reconnects, and never stops work when it fails."""

import asyncio
import contextlib
import functools
import itertools
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from libs.core.aio.backoff import Backoff
from libs.core.aio.cancellation import cancellation_kept
from libs.core.aio.coalescing import coalesced
from libs.core.aio.wake import Wake
from libs.core.coordination import (
    LEADER_ADDRESS,
    Assignment,
    WorkerIdentity,
    WorkerState,
    assignment_from_wire,
    register_to_wire,
    state_to_wire,
)
from libs.core.errors import UserError
from libs.core.http.health import Readiness
from libs.core.observability.grpc_metrics import call_outcome
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe, record
from libs.core.observability.tracing import OpenSpan, begin
from libs.core.queries.messages import Answerer
from libs.core.transport.security import TransportSecurity
from libs.core.transport.worker_key import WorkerKey
from libs.core.worker.connecting import connecting
from libs.core.worker.query_answers import QueryAnswers
from proto.runtime.v1 import coordination_pb2 as pb
from proto.runtime.v1 import coordination_pb2_grpc as pb_grpc

log = get_logger(__name__)

DEPENDENCY = "master"
"""The name under which readiness shows the stream."""

_METHOD = "Coordinate"
_CONNECT_SECONDS = 3.0
# A leader that a standby has named may have died since.
_LEADER_CONNECT_SECONDS = 1.5
_MOST_LEADERS = 3
_RESOLVE_SECONDS = 3.0
_OPTIONS = [
    # Each attempt has a connection of its own: behind a Kubernetes Service an old one would lead to the old master.
    ("grpc.use_local_subchannel_pool", 1),
    # Detects a master that is frozen or vanished. For a peer that still acknowledges packets the ping's own limit
    # counts, which is a minute unless it is set.
    ("grpc.keepalive_time_ms", 3_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.http2.ping_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]

_Call = Any  # grpc.aio.StreamStreamCall


class WorkerReplaced(UserError):
    """Another process registered under this worker's id. *same_host*: it takes over the lease and the containers."""

    def __init__(self, worker_id: str, hostname: str, *, same_host: bool) -> None:
        super().__init__(
            f"another process has registered as worker {worker_id!r} (on {hostname or 'an unnamed host'}); "
            "this process ends; to run both, set a different WORKER_ID for each"
        )
        self.same_host = same_host


class MasterSession:
    """Registers this worker, sends heartbeats and receives assignments, over one stream at a time.

    Args:
        targets: addresses of masters, ``host:port``, tried in turn, with all addresses of a name; usually one.
        state: returns the worker's state; called for each heartbeat.
        assigned: called with each assignment, also with repeated ones.
        heartbeat_interval_seconds: used until a master sets the interval.
        security: what it proves to masters, and requires of them.
        key: of the public key in *identity*; None without one.
        answerer: answers queries; None for a worker that receives none.
    """

    def __init__(
        self,
        identity: WorkerIdentity,
        targets: Sequence[str],
        *,
        state: Callable[[], WorkerState],
        assigned: Callable[[Assignment], None],
        readiness: Readiness,
        heartbeat_interval_seconds: float = 2.0,
        backoff: Backoff | None = None,
        security: TransportSecurity | None = None,
        key: WorkerKey | None = None,
        answerer: Answerer | None = None,
    ) -> None:
        self._key = key
        self._answerer = answerer
        self._answers: QueryAnswers | None = None
        self._challenge: bytes | None = None
        self._security = security or TransportSecurity()
        self._renewing = False
        self._plain_named = False
        self._identity = identity
        self._targets = targets
        self._state = state
        self._assigned = assigned
        self._readiness = readiness
        self._interval_seconds = heartbeat_interval_seconds
        self._backoff = backoff or Backoff(initial_seconds=0.1, cap_seconds=1.0)
        self._wake = Wake()
        self._must_register = True
        self._replaced: WorkerReplaced | None = None
        self._joining = OpenSpan.nothing()
        self._leaders: Sequence[str] = ()
        self._joined = False
        self.master_id: str | None = None
        """The master with which this worker is registered; None without one."""
        readiness.expect(DEPENDENCY, "not connected yet")

    def report(self) -> None:
        """Send a heartbeat now, because the worker's state changed."""
        self._wake.set()

    async def run(self) -> None:
        """Keep a stream open forever, with a growing delay (1 s at most) after consecutive failures.

        A standby's refusal names the leader, which is tried next, without a delay.

        Raises:
            WorkerReplaced: another process replaced this worker.
        """
        async for target, was_named in self._targets_in_turn():
            self._leaders = ()
            with cancellation_kept():
                reason = await self._one_stream(target, _LEADER_CONNECT_SECONDS if was_named else _CONNECT_SECONDS)
            if self._replaced is not None:
                raise self._replaced
            if self._renewing:
                log.info("the stream to the master is opened again, with replaced certificates")
            elif self.master_id is not None or self._backoff.failures == 0:
                log.warning("no stream to the master; running entities continue", target=target, reason=reason)
            self._joined = self.master_id is not None
            self.master_id = None
            self._readiness.report(DEPENDENCY, False, f"{target}: {reason}; running entities continue")
            if was_named or not self._leaders:  # two standbys that name each other get no more than others
                await asyncio.sleep(self._backoff.next_seconds())

    async def _targets_in_turn(self) -> AsyncIterator[tuple[str, bool]]:
        """Yield addresses forever, and with each whether a standby named it."""
        for target in itertools.cycle(self._targets):
            for address in await _addresses(target):
                yield address, False
                for leader in self._leaders:
                    yield leader, True
                    if self._joined:
                        break

    async def _one_stream(self, target: str, connect_seconds: float) -> str:
        """Open one stream and use it until it ends; return the reason."""
        self._must_register = True
        self._challenge = None
        # A failed attempt is not exported: while the master is down there is one every second.
        self._joining = begin("join master", parent={}, attributes={"server.address": target})
        self._renewing = False
        reason = "no connection"
        for encrypted in self._security.encryptions:
            version = self._security.version
            make = functools.partial(self._security.channel, target, _OPTIONS, encrypted=encrypted)
            async with connecting(make, connect_seconds) as (channel, is_connected):
                if channel is not None and is_connected:
                    self._note(encrypted, target, reason)
                    return await self._use(channel, version)
                if channel is None:
                    reason = f"no answer within {connect_seconds:g} s"
                elif encrypted:
                    reason = await _why_not(channel)
        return reason

    async def _use(self, channel: grpc.aio.Channel, version: int) -> str:
        """Register and stay; *version* is that of the certificates by which the channel was opened."""
        stub = pb_grpc.CoordinationServiceStub(channel)  # type: ignore[no-untyped-call]
        call = stub.Coordinate(metadata=(*self._joining.headers.items(), *self._security.metadata))
        answers = self._answers = QueryAnswers(stub, self._security.metadata, self._answerer)
        speaking = asyncio.create_task(self._speak(call, version), name="heartbeats")
        # Without heartbeats the stream is useless.
        speaking.add_done_callback(lambda _: call.cancel())
        try:
            return await self._measured(call)
        finally:
            self._answers = None
            await answers.close()
            speaking.cancel()
            await asyncio.wait([speaking])
            if not speaking.cancelled():
                speaking.result()

    def _note(self, encrypted: bool, target: str, reason: str) -> None:
        """Log once that TLS is configured and not in use."""
        falls_back = not encrypted and self._security.mode == "allow"
        if falls_back and not self._plain_named:
            log.warning("connected to the master without TLS, which TLS_MODE=allow permits", target=target, tls=reason)
        self._plain_named = falls_back

    async def _measured(self, call: _Call) -> str:
        """Listen until the stream ends, recorded as one call with its outcome."""
        begun, outcome = time.perf_counter(), "cancelled"
        try:
            reason = await self._listen(call)
            outcome = call_outcome(await call.code())
        finally:
            record("grpc", f"call {_METHOD}", outcome, time.perf_counter() - begun)
        return reason

    async def _listen(self, call: _Call) -> str:
        try:
            async for message in call:
                with observe("grpc", f"receive {message.WhichOneof('kind') or 'other'}"):
                    self._receive(message)
        except grpc.RpcError:
            pass  # the status code has the reason
        except asyncio.CancelledError:
            # Cancelled from outside, or by the end of the call: only the first cancels this task.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return "its certificates were replaced" if self._renewing else "heartbeats failed"
        code = await call.code()
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            self._leaders = _leaders(await call.trailing_metadata())
        return f"{code.name}: {await call.details()}"

    async def _speak(self, call: _Call, version: int) -> None:
        with contextlib.suppress(
            grpc.RpcError, asyncio.InvalidStateError
        ):  # the stream is over; _listen has the reason
            while True:
                state = self._state()
                if self._must_register:
                    self._must_register = False
                    message = pb.WorkerMessage(register=register_to_wire(self._identity, state))
                elif self._challenge is not None and self._key is not None:
                    signed = self._key.sign(self._challenge, self._identity.worker_id, self._identity.instance_id)
                    self._challenge = None
                    message = pb.WorkerMessage(proof=pb.Proof(signature=signed))
                else:
                    message = pb.WorkerMessage(heartbeat=state_to_wire(state))
                with observe("grpc", f"send {message.WhichOneof('kind')}"):
                    await call.write(message)
                await self._wake.wait_at_most(coalesced(self._interval_seconds))
                if self._security.version != version:
                    self._renewing = True
                    return

    def _receive(self, message: pb.MasterMessage) -> None:
        match message.WhichOneof("kind"):
            case "registered":
                registered = message.registered
                self.master_id = registered.master_id
                if registered.heartbeat_interval_milliseconds > 0:
                    self._interval_seconds = registered.heartbeat_interval_milliseconds / 1000
                self._backoff.reset()
                self._readiness.report(DEPENDENCY, True, f"registered with {registered.master_id}")
                with self._joining.entered():
                    log.info("registered with the master", master=registered.master_id)
                self._joining.end("registered")
            case "challenge":
                self._challenge = message.challenge.nonce
                self._wake.set()
            case "assignment":
                self._assigned(assignment_from_wire(message.assignment))
            case "query" if self._answers is not None:
                self._answers.begin(message.query)
            case "register_again":
                self._must_register = True
                self._wake.set()
            case "replaced":
                by = message.replaced
                same_host = by.host == self._identity.host
                self._replaced = WorkerReplaced(self._identity.worker_id, by.hostname, same_host=same_host)
            case other:
                log.warning("the master sent a message of an unknown kind", kind=other)


def _leaders(metadata: Iterable[tuple[str, str | bytes]] | None) -> list[str]:
    """Return the addresses in the metadata of a refusal."""
    named = [value for key, value in metadata or () if key == LEADER_ADDRESS and isinstance(value, str)]
    return [address for address in named if re.fullmatch(r"[^\s/]{1,255}:\d{1,5}", address)][:_MOST_LEADERS]


async def _why_not(channel: grpc.aio.Channel) -> str:
    """Return why *channel* cannot connect, as gRPC says it only to a call."""
    try:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_CONNECT_SECONDS)
    except grpc.aio.AioRpcError as error:
        return f"no connection: {error.details()}"
    return "no connection"


async def _addresses(target: str) -> list[str]:
    """Return the addresses to dial for *target* (``host:port``): all of a name that has several, else *target*.

    gRPC stays with the first address that accepts a connection, which may belong to a standby master.
    """
    host, _, port = target.rpartition(":")
    resolving = asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            found = await resolving
    except (OSError, TimeoutError):
        return [target]
    # A single host may have an address of each family: gRPC uses the one that answers.
    family = found[0][0]
    hosts = dict.fromkeys(str(address[0]) for kind, _, _, _, address in found if kind == family)
    if len(hosts) == 1:
        return [target]
    return [f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}" for host in hosts]
