"""The worker's stream against real gRPC servers that misbehave."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from libs.core.aio.backoff import Backoff
from libs.core.coordination import Assignment, HeldSegment, WorkerIdentity, WorkerState
from libs.core.http.health import Readiness
from libs.core.transport.worker_key import WorkerKey, new_challenge, proves
from libs.core.worker.session import MasterSession, WorkerReplaced
from proto.runtime.v1 import coordination_pb2 as pb
from proto.runtime.v1 import coordination_pb2_grpc as pb_grpc
from tests.benchmarks import coordination_server
from tests.support.eventually import eventually
from tools.stack.ports import free_port

Behaviour = Callable[[Any, Any], Awaitable[None]]

REGISTERED = pb.MasterMessage(registered=pb.Registered(master_id="m", heartbeat_interval_milliseconds=50))


class Scripted(pb_grpc.CoordinationServiceServicer):
    """A master that handles each stream as the test defines, and records received messages."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.received: list[pb.WorkerMessage] = []
        self.streams = 0

    async def Coordinate(self, request_iterator: Any, context: Any) -> None:  # noqa: N802 - the protocol's name
        self.streams += 1
        await self.behaviour(self, context)

    async def read(self, context: Any) -> pb.WorkerMessage:
        message: Any = await context.read()
        if message is grpc.aio.EOF:
            raise asyncio.CancelledError
        self.received.append(message)
        return self.received[-1]


async def friendly(master: Scripted, context: Any) -> None:
    while True:
        if (await master.read(context)).WhichOneof("kind") == "register":
            await context.write(REGISTERED)


@contextlib.asynccontextmanager
async def serving(master: Scripted, port: int, host: str = "127.0.0.1") -> AsyncIterator[None]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_CoordinationServiceServicer_to_server(master, server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"{host}:{port}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


class Worker:
    """A session with a state that the test sets."""

    def __init__(self, *ports: int, host: str = "127.0.0.1", key: WorkerKey | None = None) -> None:
        self.state = WorkerState()
        self.assignments: list[Assignment] = []
        self.readiness = Readiness()
        self.backoff = Backoff(initial_seconds=0.02, cap_seconds=0.1)
        self.session = MasterSession(
            WorkerIdentity(
                "a", "a-1", "host-1", "here", "1.2", 8080, 77, public_key=key.public if key is not None else b""
            ),
            [f"{host}:{port}" for port in ports],
            state=lambda: self.state,
            assigned=self.assignments.append,
            readiness=self.readiness,
            backoff=self.backoff,
            key=key,
        )
        self.task = asyncio.create_task(self.session.run())

    async def __aenter__(self) -> "Worker":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def test_session_registers_completely_and_sends_heartbeats() -> None:
    port, master = free_port(), Scripted(friendly)
    async with serving(master, port), Worker(port) as worker:
        worker.state = WorkerState(held=(HeldSegment(4, 2), HeldSegment(9, 1)), running=3)
        await eventually(lambda: len(master.received) > 2)

    register = master.received[0].register
    assert (register.worker_id, register.instance_id, register.host) == ("a", "a-1", "host-1")
    assert (register.hostname, register.version, register.http_port) == ("here", "1.2", 8080)
    assert (register.state.held.segment_id, register.state.held.epoch, register.state.running) == (4, 2, 3)
    assert {message.WhichOneof("kind") for message in master.received[1:]} == {"heartbeat"}
    assert master.received[1].heartbeat == register.state


async def test_worker_with_a_key_answers_a_challenge_and_an_older_master_needs_none(tmp_path: Path) -> None:
    challenges: list[bytes] = []

    async def challenging(master: Scripted, context: Any) -> None:
        await master.read(context)
        if master.streams == 2:
            challenges.append(new_challenge())
            await context.write(pb.MasterMessage(challenge=pb.Challenge(nonce=challenges[0])))
            while (await master.read(context)).WhichOneof("kind") != "proof":
                pass
        await context.write(REGISTERED)
        await context.abort(grpc.StatusCode.ABORTED, "to see another stream")

    port, master, key = free_port(), Scripted(challenging), WorkerKey.load(tmp_path)
    async with serving(master, port), Worker(port, key=key) as worker:
        await eventually(lambda: master.streams > 2)
        assert worker.session.master_id in (None, "m")

    registers = [message.register for message in master.received if message.WhichOneof("kind") == "register"]
    proofs = [message.proof.signature for message in master.received if message.WhichOneof("kind") == "proof"]
    assert {register.public_key for register in registers} == {key.public}
    assert [proves(key.public, proof, challenges[0], "a", "a-1") for proof in proofs] == [True]


async def test_state_change_is_sent_at_once() -> None:
    async def slow(master: Scripted, context: Any) -> None:
        await master.read(context)
        registered = pb.Registered(master_id="m", heartbeat_interval_milliseconds=60_000)
        await context.write(pb.MasterMessage(registered=registered))
        while True:
            await master.read(context)

    port, master = free_port(), Scripted(slow)
    async with serving(master, port), Worker(port) as worker:
        await eventually(lambda: worker.session.master_id == "m")
        # The heartbeat that was due by the interval from before the registration.
        await eventually(lambda: len(master.received) >= 2)
        worker.state = WorkerState(draining=True)
        worker.session.report()
        await eventually(lambda: master.received[-1].heartbeat.draining, within_seconds=40)


async def test_session_reconnects_to_returning_master_and_reports_outage() -> None:
    port, first, second = free_port(), Scripted(friendly), Scripted(friendly)
    async with Worker(port) as worker:
        async with serving(first, port):
            await eventually(lambda: worker.readiness.ready)
        await eventually(lambda: not worker.readiness.ready)
        assert "running entities continue" in worker.readiness.states["master"].detail
        assert worker.session.master_id is None

        async with serving(second, port):
            await eventually(lambda: worker.readiness.ready)
            assert second.received[0].WhichOneof("kind") == "register"


async def stands_by(master: Scripted, context: Any) -> None:
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this master does not lead")


def names(*addresses: str) -> Behaviour:
    async def refuse(master: Scripted, context: Any) -> None:
        metadata = tuple(("leader-address", address) for address in addresses)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this master does not lead", metadata)

    return refuse


async def test_session_connects_to_the_leader_that_a_standby_names() -> None:
    ports = [free_port(), free_port(), free_port()]
    standby = Scripted(names("no address", f"127.0.0.1:{ports[2]}", f"127.0.0.1:{ports[1]}"))
    leader = Scripted(friendly)
    async with serving(standby, ports[0]), serving(leader, ports[1]), Worker(ports[0]) as worker:
        await eventually(lambda: worker.session.master_id == "m")

    assert (standby.streams, leader.streams) == (1, 1)


async def test_session_that_lost_the_named_leader_asks_its_own_targets_again() -> None:
    ports = [free_port(), free_port()]
    standby, leader, later = Scripted(names(f"127.0.0.1:{ports[1]}")), Scripted(friendly), Scripted(friendly)
    async with Worker(ports[0]) as worker:
        async with serving(standby, ports[0]), serving(leader, ports[1]):
            await eventually(lambda: worker.session.master_id == "m")
        async with serving(later, ports[0]):
            await eventually(lambda: worker.readiness.ready)

    assert later.received[0].WhichOneof("kind") == "register"


async def test_standbys_that_name_each_other_are_asked_no_faster_than_others() -> None:
    ports = [free_port(), free_port()]
    first, second = (Scripted(names(f"127.0.0.1:{port}")) for port in reversed(ports))
    async with serving(first, ports[0]), serving(second, ports[1]), Worker(ports[0]) as worker:
        await eventually(lambda: first.streams + second.streams >= 12)

    # One of two attempts is followed by a delay.
    assert worker.backoff.failures >= 5


async def test_session_connects_while_a_service_leads_some_connections_to_a_lost_node() -> None:
    port, master = free_port(), Scripted(friendly)
    async with serving(master, port), service_with_a_lost_node(port, lost=2) as (service, connections):
        begun = time.monotonic()
        async with Worker(service) as worker:
            await eventually(lambda: worker.session.master_id == "m")
        took = time.monotonic() - begun

    # Each of the two alone would take the 3 s that a connection may take.
    assert len(connections) >= 3
    assert (master.streams, worker.backoff.failures) == (1, 0)
    assert took < 6


@contextlib.asynccontextmanager
async def service_with_a_lost_node(port: int, *, lost: int) -> AsyncIterator[tuple[int, list[int]]]:
    """Yield a port, and the numbers of its connections: the first ones get no answer, the others reach *port*."""
    connections: list[int] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(len(connections))
        with contextlib.closing(writer):
            if len(connections) <= lost:
                await reader.read(-1)
                return
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(other_writer), contextlib.suppress(OSError):
                await asyncio.gather(passed(reader, other_writer), passed(other_reader, writer))

    async def passed(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
        target.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], connections


async def test_session_reports_an_address_that_does_not_answer() -> None:
    async with service_with_a_lost_node(0, lost=1_000) as (service, connections), Worker(service) as worker:
        await eventually(lambda: "no answer within 3 s" in worker.readiness.states["master"].detail, within_seconds=30)

    assert len(connections) > 1


async def test_session_connects_to_leading_master() -> None:
    ports = [free_port(), free_port()]
    follower, leader = Scripted(stands_by), Scripted(friendly)
    async with serving(follower, ports[0]), serving(leader, ports[1]), Worker(*ports) as worker:
        await eventually(lambda: worker.session.master_id == "m")

    assert follower.streams >= 1


async def test_session_finds_leader_among_addresses_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    port, hosts = free_port(), ("127.0.0.2", "127.0.0.3")
    resolve = socket.getaddrinfo

    def resolve_masters(host: Any, *arguments: Any, **options: Any) -> list[Any]:
        names = hosts if host == "masters.test" else (host,)
        return [found for name in names for found in resolve(name, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve_masters)
    follower, leader = Scripted(stands_by), Scripted(friendly)
    async with (
        serving(follower, port, hosts[0]),
        serving(leader, port, hosts[1]),
        Worker(port, host="masters.test") as worker,
    ):
        await eventually(lambda: worker.session.master_id == "m")

    assert follower.streams >= 1


async def test_session_registers_again_on_request() -> None:
    async def forgetful(master: Scripted, context: Any) -> None:
        await friendly_once(master, context)
        await master.read(context)
        await context.write(pb.MasterMessage(register_again=pb.RegisterAgain()))
        await friendly(master, context)

    async def friendly_once(master: Scripted, context: Any) -> None:
        await master.read(context)
        await context.write(REGISTERED)

    port, master = free_port(), Scripted(forgetful)
    async with serving(master, port), Worker(port):
        await eventually(lambda: [m.WhichOneof("kind") for m in master.received].count("register") == 2)

    assert master.streams == 1


async def test_session_leaves_frozen_master() -> None:
    # In a separate process, so that it can be stopped as a whole.
    command = (sys.executable, "-m", coordination_server.__name__, "bare")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=environment)
    try:
        assert process.stdout is not None
        port = json.loads(await process.stdout.readline())["port"]
        async with Worker(port) as worker:
            await eventually(lambda: worker.session.master_id == "bare")
            process.send_signal(signal.SIGSTOP)

            # Sooner than by the minute that an unanswered ping is given unless that is set.
            await eventually(lambda: worker.session.master_id is None, within_seconds=50)
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize(("host", "same_host"), [("host-1", True), ("host-2", False)])
async def test_session_fails_with_named_error_if_replaced(host: str, same_host: bool) -> None:
    async def replacing(master: Scripted, context: Any) -> None:
        await master.read(context)
        replaced = pb.Replaced(instance_id="a-2", host=host, hostname="there")
        await context.write(pb.MasterMessage(replaced=replaced))
        await context.abort(grpc.StatusCode.ALREADY_EXISTS, "replaced")

    port, master = free_port(), Scripted(replacing)
    async with serving(master, port), Worker(port) as worker:
        await eventually(worker.task.done)

    error = worker.task.exception()
    assert isinstance(error, WorkerReplaced)
    assert error.same_host is same_host
    assert "another process has registered as worker 'a' (on there)" in str(error)


async def test_assignments_are_passed_on_as_they_come() -> None:
    async def assigning(master: Scripted, context: Any) -> None:
        await master.read(context)
        await context.write(REGISTERED)
        await context.write(pb.MasterMessage(assignment=pb.Assignment(segment_id=0, reason="yours")))
        await context.write(pb.MasterMessage(assignment=pb.Assignment(reason="none")))
        await friendly(master, context)

    port, master = free_port(), Scripted(assigning)
    async with serving(master, port), Worker(port) as worker:
        await eventually(lambda: len(worker.assignments) == 2)

    assert worker.assignments == [Assignment(frozenset([0]), "yours"), Assignment(frozenset(), "none")]
