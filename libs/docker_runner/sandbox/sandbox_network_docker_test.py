"""What a bot can reach, on each of the two networks that it may be given, and without one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import docker
import pytest
import pytest_asyncio

from libs.docker_runner.executable import Network
from tests.support.eventually import eventually
from tests.support.faults.hostile_bot import CONNECT, SERVE, address_of, has_output
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tools.engine.ensure import Engine


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, docker_engine.url) as bots:
        yield bots


ON_THE_LOOPBACK = """
import socket, time
def main(id, config):
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    while True:
        server.accept()[0].close()
"""


@pytest.fixture(params=[True, False], ids=["default-bridge", "own-bridge"])
def default_bridge(request: pytest.FixtureRequest) -> bool:
    chosen: bool = request.param
    return chosen


@pytest_asyncio.fixture(loop_scope="session")
async def networked(
    tmp_path: Path, scope: str, docker_engine: Engine, default_bridge: bool
) -> AsyncIterator[BotContainers]:
    """Bots on either of the two networks."""
    async with bot_containers(tmp_path, scope, docker_engine.url, default_bridge=default_bridge) as bots:
        yield bots


async def test_a_bot_cannot_reach_another_bots_port(networked: BotContainers, docker_engine: Engine) -> None:
    bots = networked
    server = await bots.runner.start(bots.executable(SERVE, "server"))
    await eventually(lambda: has_output(bots, server))
    host = await address_of(docker_engine, server)
    outcome, _ = await bots.run(CONNECT, id="client", config={"host": host, "port": 8000})
    assert outcome.result in ("TimeoutError", "ConnectionRefusedError", "OSError")


# The cloud's metadata service, as a host would see it: an address of the host's own, which is the hardest case.
METADATA_SERVICE = """
import http.server, os, signal, socket, struct, sys
sys.path.insert(0, "/guard")
import nftables as netlink
header = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 254, socket.if_nametoindex("lo"))
body = header + netlink.pack([(2, socket.inet_aton("169.254.169.254"))])
def address(kind, flags):
    with netlink.netlink(0) as connection:
        try:
            netlink.send(connection, [netlink.message(kind, netlink.REQUEST | netlink.ACK | flags, 1, body)], acks=1)
        except FileExistsError:
            pass
address(20, netlink.CREATE)
def end(*_):
    address(21, 0)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
server = http.server.HTTPServer(("169.254.169.254", 18080), http.server.SimpleHTTPRequestHandler)
print("listening", flush=True)
server.serve_forever()
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def metadata_service(docker_engine: Engine) -> AsyncIterator[int]:
    client = docker.DockerClient(base_url=docker_engine.url)
    guard = Path(__file__).parents[1] / "entrypoints" / "guard"

    def serve() -> Any:
        return client.containers.run(
            "python:3.11-slim",
            ["python3", "-c", METADATA_SERVICE],
            network_mode="host",
            cap_add=["NET_ADMIN"],
            volumes={str(guard): {"bind": "/guard", "mode": "ro"}},
            detach=True,
            auto_remove=True,
        )

    container = await asyncio.to_thread(serve)
    try:
        await eventually(lambda: asyncio.to_thread(lambda: b"listening" in container.logs()))
        yield 18080
    finally:
        await asyncio.to_thread(container.stop)
        client.close()


async def test_a_bot_cannot_reach_the_metadata_address(
    networked: BotContainers, docker_engine: Engine, metadata_service: int
) -> None:
    def unguarded() -> bytes:
        probe = f"import socket; socket.create_connection(('169.254.169.254', {metadata_service}), 5); print('reached')"
        client = docker.DockerClient(base_url=docker_engine.url)
        try:
            output = client.containers.run("python:3.11-slim", ["python3", "-c", probe], remove=True)
        finally:
            client.close()
        return bytes(output)

    assert await asyncio.to_thread(unguarded) == b"reached\n"
    outcome, _ = await networked.run(CONNECT, config={"host": "169.254.169.254", "port": metadata_service})
    assert outcome.result == "TimeoutError"


async def test_without_a_network_there_is_only_the_loopback(bots: BotContainers) -> None:
    source = "import socket\ndef main(id, config): return [name for _, name in socket.if_nameindex()]"
    executable = bots.executable(source)
    placement = type(executable.placement)(executable.placement.image, Network.NONE)
    outcome, _ = await bots.run(source, placement=placement)
    assert [name for name in outcome.result if not name.startswith(("tunl", "sit", "ip6", "gre", "erspan"))] == ["lo"]  # type: ignore[attr-defined]


async def test_on_the_hosts_network_there_are_no_walls(tmp_path: Path, scope: str, docker_engine: Engine) -> None:
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.HOST) as bots:
        server = await bots.runner.start(bots.executable(ON_THE_LOOPBACK, "server"))
        await eventually(lambda: has_output(bots, server))
        port = int(b"".join([piece.data async for piece in bots.runner.logs(server)]))
        outcome, _ = await bots.run(CONNECT, id="client", config={"host": "127.0.0.1", "port": port})
    assert outcome.result == "reached"


async def test_without_the_guard_bots_start_and_are_kept_from_each_other_by_the_engine(
    tmp_path: Path, scope: str, docker_engine: Engine
) -> None:
    async with bot_containers(tmp_path, scope, docker_engine.url, metadata_guard=False) as bots:
        server = await bots.runner.start(bots.executable(SERVE, "server"))
        await eventually(lambda: has_output(bots, server))
        host = await address_of(docker_engine, server)
        outcome, _ = await bots.run(CONNECT, id="client", config={"host": host, "port": 8000})
        assert outcome.result in ("TimeoutError", "ConnectionRefusedError", "OSError")
