"""What one bot may use of the host's network: others have theirs however it floods, and its share is not forgotten."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from libs.docker_runner.executable import NetworkLimits
from libs.docker_runner.sandbox.network import OWN_BRIDGE
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tests.support.rigs.network_around import PUBLIC, SINK, SOURCE, WEB, Card, card, outside
from tests.support.servers.own_engine import OwnEngine

__all__ = ["outside"]

pytestmark = pytest.mark.usefixtures("outside")

HOST = PUBLIC[0]
CONNECTIONS, NEW_PER_SECOND, BYTES_PER_SECOND = 40, 20, 1_000_000
LIMITS = NetworkLimits(CONNECTIONS, NEW_PER_SECOND, 20_000, BYTES_PER_SECOND)
# Enough to open as many connections at once as there may be.
FAST = NetworkLimits(CONNECTIONS, 1000, 20_000, BYTES_PER_SECOND)

HELD = """
import asyncio, json, sys
async def opened(host, port):
    try:
        return await asyncio.wait_for(asyncio.open_connection(host, port), 2)
    except OSError:
        return None
async def main(host, port, count):
    found = await asyncio.gather(*(opened(host, port) for _ in range(count)))
    return sum(one is not None for one in found)
host, port, count = json.loads(sys.argv[1])
print(asyncio.run(main(host, port, count)))
"""
SHORT = """
import json, socket, sys, time
host, port, seconds = json.loads(sys.argv[1])
count, until = 0, time.monotonic() + seconds
while time.monotonic() < until:
    try:
        # One that is dropped is not tried again within this time.
        socket.create_connection((host, port), timeout=0.05).close()
        count += 1
    except OSError:
        pass
print(count)
"""
DATAGRAMS = """
import json, socket, sys
host, count = json.loads(sys.argv[1])
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(10000, 10000 + count):
    sender.sendto(b"x", (host, port))
print(count)
"""
SENT = """
import json, socket, sys, time
host, port, size = json.loads(sys.argv[1])
begun = time.monotonic()
with socket.create_connection((host, port), timeout=60) as connection:
    connection.sendall(bytes(size))
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(100) == b"%d" % size
print(time.monotonic() - begun)
"""

RECEIVED = """
import json, socket, sys, time
host, port, size = json.loads(sys.argv[1])
begun = time.monotonic()
with socket.create_connection((host, port), timeout=60) as connection:
    connection.sendall(b"%d\\n" % size)
    while data := connection.recv(65536):
        size -= len(data)
assert size == 0
print(time.monotonic() - begun)
"""


@asynccontextmanager
async def walled(
    engine: OwnEngine, directory: Path, scope: str, limits: NetworkLimits, **settings: Any
) -> AsyncIterator[BotContainers]:
    async with bot_containers(
        directory, scope, engine.url, network_limits=limits, walls_seconds=0.0, **settings
    ) as bots:
        await bots.runner.prepare()
        yield bots


@pytest.fixture(params=["docker0", OWN_BRIDGE])
def bridge(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


async def held(bot: Card, count: int) -> int:
    """How many of *count* connections at once are opened."""
    return int(await bot.run(HELD, json.dumps([HOST, SINK, count])))


async def tracked(engine: OwnEngine) -> int:
    return int(await engine.inside("sysctl", "-n", "net.netfilter.nf_conntrack_count"))


async def test_a_bot_has_no_more_connections_than_its_limit_and_others_have_theirs(
    private_engine: OwnEngine, tmp_path: Path, scope: str, bridge: str
) -> None:
    async with (
        walled(private_engine, tmp_path, scope, FAST, default_bridge=bridge == "docker0") as bots,
        card(private_engine, bridge, "06:b0:00:00:00:11", 1) as flooder,
        card(private_engine, bridge, "06:b0:00:00:00:12", 2) as other,
    ):
        assert CONNECTIONS - 10 <= await held(flooder, 4 * CONNECTIONS) <= CONNECTIONS
        before = await tracked(private_engine)
        assert await flooder.run(DATAGRAMS, json.dumps([HOST, 3000])) == 3000
        assert await tracked(private_engine) <= before + CONNECTIONS

        # It is counted on when the rules are installed again, as they are every minute.
        await bots.runner.prepare()
        assert await held(flooder, 4 * CONNECTIONS) == 0
        assert await held(other, CONNECTIONS - 10) == CONNECTIONS - 10


async def test_a_bot_opens_connections_at_its_rate_after_a_burst(
    private_engine: OwnEngine, tmp_path: Path, scope: str
) -> None:
    limits = NetworkLimits(10_000, NEW_PER_SECOND, 20_000, BYTES_PER_SECOND)
    async with (
        walled(private_engine, tmp_path, scope, limits),
        card(private_engine, "docker0", "06:b0:00:00:00:13") as bot,
    ):
        seconds = 4
        opened = await bot.run(SHORT, json.dumps([HOST, WEB, seconds]))
        # The burst is that of ten seconds; the limit of time is checked between connections.
        assert 5 * NEW_PER_SECOND <= opened <= (10 + seconds + 1) * NEW_PER_SECOND


async def test_a_bot_sends_at_its_rate_after_a_burst(private_engine: OwnEngine, tmp_path: Path, scope: str) -> None:
    async with card(private_engine, "docker0", "06:b0:00:00:00:14") as bot:
        async with walled(private_engine, tmp_path, scope, NetworkLimits()):
            fast = await bot.run(SENT, json.dumps([HOST, SINK, 5 * BYTES_PER_SECOND]))
        async with walled(private_engine, tmp_path, scope, LIMITS):
            slow = await bot.run(SENT, json.dumps([HOST, SINK, 5 * BYTES_PER_SECOND]))
    # The burst is that of one second; what is above the rate is dropped and sent again.
    assert slow > 3 > fast


async def test_a_bot_receives_at_its_rate_after_a_burst_and_others_at_theirs(
    private_engine: OwnEngine, tmp_path: Path, scope: str, bridge: str
) -> None:
    limits = NetworkLimits(received_bytes_per_second=BYTES_PER_SECOND)
    asked = json.dumps([HOST, SOURCE, 4 * BYTES_PER_SECOND])
    async with (
        walled(private_engine, tmp_path, scope, limits, default_bridge=bridge == "docker0"),
        card(private_engine, bridge, "06:b0:00:00:00:15", 1) as bot,
        card(private_engine, bridge, "06:42:00:00:00:16", 2) as other,
    ):
        slow = await bot.run(RECEIVED, asked)
        # No bot's, which the default bridge may have as well.
        fast = await other.run(RECEIVED, asked) if bridge == "docker0" else 0.0

    # The burst is that of one second.
    assert slow > 2.5 > fast
