"""The kernel's one table of link-layer addresses: a bot that fills its share leaves others their gateway."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.eventually import eventually
from tests.support.faults.hostile_bot import has_output
from tests.support.rigs.bot_containers import bot_containers
from tests.support.servers.own_engine import OwnEngine
from tools.engine.ensure import Engine

LIMITS = [Path(f"/proc/sys/net/ipv4/neigh/default/gc_thresh{number}") for number in (2, 3)]
KERNELS_DEFAULT = 1024

# A socket has room for some packets without a link-layer address. Prints once more entries are wanted than by default.
FLOOD = """
import itertools, socket
def main():
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(200)]
    for one in sockets:
        one.setblocking(False)
    sockets[0].connect(("198.51.100.1", 9))
    network = sockets[0].getsockname()[0].rsplit(".", 2)[0]
    sent, turn = 0, itertools.cycle(sockets[1:])
    for third, fourth in itertools.cycle(itertools.product(range(10, 250), range(1, 255))):
        try:
            next(turn).sendto(b"x", (f"{network}.{third}.{fourth}", 9))
        except OSError:
            continue
        sent += 1
        if sent == 4096:
            print("up", flush=True)
"""
# Whether the gateway answers what a first packet to it asks.
GATEWAY = """
import socket, struct, time
def main():
    routes = [line.split() for line in open("/proc/net/route")][1:]
    [gateway] = [socket.inet_ntoa(struct.pack("=I", int(route[2], 16))) for route in routes if route[1] == "00000000"]
    until = time.monotonic() + 5
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        # The kernel itself asks three times, if it has an entry for the answer.
        sender.sendto(b"x", (gateway, 53))
        while time.monotonic() < until:
            time.sleep(0.01)
            entries = [line.split() for line in open("/proc/net/arp")][1:]
            if [entry for entry in entries if entry[0] == gateway and int(entry[2], 16) & 2]:
                return True
    return False
"""


@pytest.fixture
def limits() -> Iterator[list[Path]]:
    """The limits of the table of IPv4, which a test may change."""
    if not LIMITS[0].exists():
        pytest.skip("the limits of the table of neighbours belong to another network namespace")
    before = [path.read_text() for path in LIMITS]
    yield LIMITS
    for path, text in zip(LIMITS, before, strict=True):
        path.write_text(text)


def lower(limits: list[Path]) -> None:
    """As on a host where nothing has raised them."""
    for path, limit in zip(limits, (KERNELS_DEFAULT // 2, KERNELS_DEFAULT), strict=True):
        path.write_text(str(limit))


async def test_bot_that_fills_the_table_of_neighbours_leaves_others_their_gateway(
    tmp_path: Path, scope: str, docker_engine: Engine, limits: list[Path]
) -> None:
    lower(limits)
    async with bot_containers(tmp_path, scope, docker_engine.url) as bots:
        flooder = await bots.runner.start(bots.executable(FLOOD, "flooder"))
        await eventually(lambda: has_output(bots, flooder))

        outcome, output = await bots.run(GATEWAY, id="other")

    assert outcome.result is True, output


async def test_engine_whose_table_of_neighbours_cannot_grow_is_reported_once_with_the_remedy(
    tmp_path: Path, scope: str, private_engine: OwnEngine, limits: list[Path]
) -> None:
    async def reports() -> list[str]:
        lower(limits)
        with capture_logs() as logs:
            async with bot_containers(tmp_path, scope, private_engine.url, walls_seconds=0.0) as bots:
                await bots.runner.prepare()
                await bots.runner.prepare()
        return [line["remedy"] for line in logs if "table of neighbours" in line["event"]]

    async def reported_once() -> bool:
        # A worker of another engine of this machine may raise the limits in between.
        found = await reports()
        return len(found) == 1 and "gc_thresh3" in found[0]

    await eventually(reported_once)
