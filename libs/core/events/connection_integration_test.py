"""The connection to NATS: several servers, credentials, messages that are too large, and a crowd of messages."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from libs.core.events.connection import Message, NatsConnection, NatsRejected, NobodyListens
from libs.core.http.health import Readiness
from tests.support.eventually import eventually
from tests.support.rigs.event_rig import EventRig, event_rig
from tools.stack.nats import NatsServer
from tools.stack.ports import free_port


class ClusterNode(NatsServer):
    """One server of a cluster."""

    def __init__(self, directory: Path, routes_port: int, routes: Sequence[int]) -> None:
        super().__init__(directory)
        self._routes_port = routes_port
        self._routes = routes

    def _command(self) -> Sequence[str | Path]:
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in self._routes)
        return [
            *super()._command(),
            *("--server_name", f"n{self._routes_port}", "--cluster_name", "test"),
            *("--cluster", f"nats://127.0.0.1:{self._routes_port}", "--routes", routes),
        ]


class LockedServer(NatsServer):
    """A server that requires a user and a password."""

    def _command(self) -> Sequence[str | Path]:
        return [*super()._command(), "--user", "u", "--pass", "secret"]


async def test_ingestion_goes_on_at_another_server_of_the_cluster(
    mongo_uri: str, database_name: str, tmp_path: Path
) -> None:
    ports = [free_port() for _ in range(3)]
    nodes = [ClusterNode(tmp_path / str(port), port, ports) for port in ports]
    async with AsyncExitStack() as stack:
        for node in nodes:
            stack.push_async_callback(node.stop)
        await asyncio.gather(*(node.launch() for node in nodes))
        url = ",".join(node.url for node in nodes)
        rig = await stack.enter_async_context(event_rig(mongo_uri, database_name, url))
        await rig.client.wait_connected()
        await eventually(lambda: make_replicated_stream(rig))
        worker = await rig.start_worker()
        await eventually(lambda: rig.created("before"))
        [used] = await eventually(lambda: used_by(worker.readiness.states["nats"].detail, nodes))
        await used.kill()
        await eventually(lambda: rig.created("after"))
        await eventually(lambda: has_both(rig))


def used_by(detail: str, nodes: Sequence[ClusterNode]) -> list[ClusterNode]:
    """The one server that *detail* names, or nothing: none is used now when it names several."""
    named = [node for node in nodes if node.address in detail]
    return named if len(named) == 1 else []


async def make_replicated_stream(rig: EventRig) -> bool:
    await rig.make_stream(num_replicas=3)
    return True


async def has_both(rig: EventRig) -> bool:
    return await rig.ids() == {"before", "after"}


async def test_credentials_in_the_address_are_used_and_never_shown(tmp_path: Path) -> None:
    server = LockedServer(tmp_path)
    await server.launch()
    readiness = Readiness()
    right = NatsConnection(f"nats://u:secret@{server.address}", name="right", readiness=readiness)
    wrong = NatsConnection(f"nats://u:wrong@{server.address}", name="wrong", readiness=(refused := Readiness()))
    tasks = [asyncio.create_task(right.run()), asyncio.create_task(wrong.run())]
    try:
        await right.wait_connected()
        await eventually(lambda: "uthorization" in refused.states["nats"].detail)
        assert not wrong.connected
        shown = f"{readiness.snapshot()} {refused.snapshot()}"
        assert "secret" not in shown
        assert "wrong" not in shown
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.stop()


async def test_a_message_that_is_too_large_is_refused_without_losing_the_connection(nats_server: NatsServer) -> None:
    connection = NatsConnection(nats_server.url, name="test")
    task = asyncio.create_task(connection.run())
    await connection.wait_connected()
    with pytest.raises(NatsRejected, match="the server allows 1048576"):
        await connection.publish("a", b"x" * (1024 * 1024), {"name": "value"})
    with pytest.raises(NobodyListens):
        await connection.request("nobody.here", timeout_seconds=60)
    assert (connection.connected, connection.generation) == (True, 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_subscription_made_before_there_is_a_server_works_once_there_is(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    connection = NatsConnection(server.url, name="test")
    received: list[bytes] = []
    others: list[bytes] = []

    async def receive(message: Message) -> None:
        received.append(message.data)

    async def receive_too(message: Message) -> None:
        others.append(message.data)

    subscription = await connection.subscribe("hello", receive)
    await connection.subscribe("hello", receive_too)
    task = asyncio.create_task(connection.run())
    await server.launch()
    await connection.wait_connected()
    await connection.publish("hello", b"1")
    await eventually(lambda: received == [b"1"])
    await subscription.cancel()
    await connection.publish("hello", b"2")
    await connection.publish("hello", b"3")
    await eventually(lambda: others == [b"1", b"2", b"3"])
    assert received == [b"1"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await server.stop()
