"""For tests: the internet and a private network around a private engine's host, and network cards like a bot's."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.servers.own_engine import OwnEngine

PUBLIC = ["198.51.100.9", "2001:db8:9::9"]
PRIVATE = [
    "10.77.0.9",
    "100.64.77.9",
    "168.63.129.16",
    "169.254.169.254",
    "172.30.77.9",
    "192.0.0.192",
    "192.168.77.9",
    "fd00:ec2::254",
    "fc00:77::9",
    "fec0::9",
    "64:ff9b::10.77.0.9",
    "64:ff9b:1::9",
]
HOST = ["198.51.100.1", "2001:db8:9::1"]
WEB, DNS, MAIL = 80, 53, [25, 465, 587]
# The host redirects each of the first to the second, as it does for published ports and services of a cluster.
REDIRECTED = [(("198.51.100.1", 5000), ("10.77.0.9", WEB)), (("10.99.0.1", WEB), ("198.51.100.9", WEB))]

SERVE = """
import selectors, socket, sys
selector = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    selector.register(server, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        key.fileobj.accept()[0].close()
"""
PROBE = """
import asyncio, json, sys
async def reached(host, port):
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 2)
        writer.close()
        return True
    except OSError:
        return False
async def main(targets):
    return await asyncio.gather(*(reached(*target) for target in targets))
print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
"""

# SINK keeps each connection until it has read all of it, and answers how many bytes that were. SOURCE sends as many
# bytes as a request names.
SINK, SOURCE = 9000, 9001
KEEP = """
import asyncio, sys
async def taken(reader, writer):
    count = 0
    while data := await reader.read(65536):
        count += len(data)
    writer.write(b"%d" % count)
    writer.close()
async def given(reader, writer):
    writer.write(bytes(int(await reader.readline())))
    await writer.drain()
    writer.close()
async def main():
    source = await asyncio.start_server(given, None, int(sys.argv[2]))
    server = await asyncio.start_server(taken, None, int(sys.argv[1]), backlog=1000)
    await server.serve_forever()
asyncio.run(main())
"""

Target = tuple[str, int]


@dataclass(frozen=True)
class Card:
    """A network card of its own on a bridge of the engine's, and processes that use it."""

    holder: asyncio.subprocess.Process

    async def reached(self, targets: list[Target]) -> set[Target]:
        """Those of *targets* that take a connection."""
        there = await self.run(PROBE, json.dumps(targets))
        return {target for target, reached in zip(targets, there, strict=True) if reached}

    async def change_address(self, mac: str) -> None:
        """Give the card the address *mac*; it and its host find each other again."""
        await in_namespace(self.holder, f"ip link set eth0 address {mac}")
        await in_namespace(self.holder, "ip neighbour flush dev eth0")

    async def run(self, source: str, *arguments: str) -> Any:
        """What the Python program *source* prints as JSON."""
        return json.loads(await in_namespace(self.holder, f"{sys.executable} -I -S -c", source, *arguments))


async def in_namespace(process: asyncio.subprocess.Process, line: str, *arguments: str) -> str:
    """The output of a command with simple words, and perhaps more arguments."""
    command = ["nsenter", "--target", str(process.pid), "--net", *line.split(), *arguments]
    entered = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await entered.communicate()
    assert entered.returncode == 0, command
    return output.decode()


@asynccontextmanager
async def namespace(engine: OwnEngine, link: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A network namespace whose eth0 is connected to *link* in the engine's."""
    holder = await asyncio.create_subprocess_exec("unshare", "--net", "sleep", "infinity")
    try:
        own = Path(f"/proc/{holder.pid}/ns/net")
        await eventually(lambda: own.readlink() != Path("/proc/self/ns/net").readlink())
        await engine.inside(*f"ip link add {link} type veth peer name eth0 netns {holder.pid}".split())
        try:
            await engine.inside("ip", "link", "set", link, "up")
            for device in ("lo", "eth0"):
                await in_namespace(holder, f"ip link set {device} up")
            yield holder
        finally:
            # The kernel removes it some time after the namespace ended, and the next test takes the name again.
            await engine.inside("ip", "link", "delete", link)
    finally:
        holder.kill()
        await holder.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def outside(private_engine: OwnEngine) -> AsyncIterator[None]:
    """The internet and a private network, one hop from the engine's host, and servers there and on the host."""
    engine = private_engine
    async with AsyncExitStack() as opened:
        there = await opened.enter_async_context(namespace(engine, "uplink"))
        for address in ("198.51.100.1/24", "2001:db8:9::1/64"):
            await engine.inside("ip", "address", "add", address, "dev", "uplink", *nodad(address))
        await in_namespace(there, "ip address add 198.51.100.9/24 dev eth0")
        await in_namespace(there, "ip address add 2001:db8:9::9/64 dev eth0 nodad")
        await in_namespace(there, "ip -6 route add default via 2001:db8:9::1")
        for address in PRIVATE:
            await in_namespace(there, f"ip address add {address} dev lo", *nodad(address))
            gateway = PUBLIC[":" in address]
            await engine.inside("ip", "route", "add", address, "via", gateway)
        await engine.inside("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
        for (host, port), (other, there_port) in REDIRECTED:
            redirect = f"-t nat -A PREROUTING -d {host} -p tcp --dport {port} -j DNAT --to {other}:{there_port}"
            await engine.inside("iptables", *redirect.split())
            opened.push_async_callback(engine.inside, "iptables", *redirect.replace("-A", "-D").split())
        ports = [str(port) for port in (WEB, DNS, *MAIL)]
        serving = ["nsenter", "--target", str(there.pid), "--net", sys.executable, "-c", SERVE, *ports]
        await opened.enter_async_context(engine.beside(*serving))
        keeping = [*serving[:4], sys.executable, "-c", KEEP, str(SINK), str(SOURCE)]
        await opened.enter_async_context(engine.beside(*keeping))
        await opened.enter_async_context(engine.beside(sys.executable, "-c", SERVE, str(WEB), str(DNS)))
        yield


def nodad(address: str) -> list[str]:
    """Return the option that makes an IPv6 address usable at once, without duplicate address detection."""
    return ["nodad"] if ":" in address else []


@asynccontextmanager
async def card(engine: OwnEngine, bridge: str, mac: str, number: int = 1) -> AsyncIterator[Card]:
    """A card with the address *mac* on *bridge*; *number* tells those apart that are there at the same time."""
    gateway = json.loads(await engine.inside("ip", "-j", "-4", "address", "show", bridge))[0]["addr_info"][0]["local"]
    network = "2001:db8:b" if bridge == "docker0" else "2001:db8:c"
    async with namespace(engine, f"card{number}") as holder:
        await engine.inside("ip", "link", "set", f"card{number}", "master", bridge)
        own = gateway.rpartition(".")[0].rpartition(".")[0] + f".200.{number}/16"
        for command in (
            f"ip link set eth0 address {mac}",
            f"ip address add {own} dev eth0",
            f"ip address add {network}::{number}:2/64 dev eth0 nodad",
            f"ip route add default via {gateway}",
            f"ip route add default via {network}::1",
        ):
            await in_namespace(holder, command)
        await engine.inside(*f"ip address replace {network}::1/64 dev {bridge} nodad".split())
        made = Card(holder)
        # Bridges forward nothing of a new port for a moment.
        await eventually(lambda: made.reached([(PUBLIC[0], WEB)]))
        await eventually(lambda: made.reached([(PUBLIC[1], WEB)]))
        yield made
