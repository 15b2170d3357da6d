"""What a bot's network card reaches: public addresses; no private network, not the host, no mail. IPv4 and IPv6."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from libs.core.config.destinations import destinations
from libs.docker_runner.sandbox.network import OWN_BRIDGE
from tests.support.eventually import eventually
from tests.support.faults.hostile_bot import CONNECT
from tests.support.rigs.bot_containers import bot_containers
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
HOST = ["198.51.100.1", "2001:db8:9::1", "2001:db8:b::1"]
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

Target = tuple[str, int]
Probe = Callable[[list[Target]], Awaitable[set[Target]]]


def all_of(hosts: list[str], *ports: int) -> set[Target]:
    return {(host, port) for host in hosts for port in ports}


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
        await engine.inside("ip", "link", "set", link, "up")
        for device in ("lo", "eth0"):
            await in_namespace(holder, f"ip link set {device} up")
        yield holder
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
        await opened.enter_async_context(engine.beside(sys.executable, "-c", SERVE, str(WEB), str(DNS)))
        yield


def nodad(address: str) -> list[str]:
    """An IPv6 address is usable at once, without waiting for somebody else who may have it."""
    return ["nodad"] if ":" in address else []


@asynccontextmanager
async def card(engine: OwnEngine, bridge: str, mac: str) -> AsyncIterator[Probe]:
    """Which of some targets a network card on *bridge* reaches."""
    gateway = json.loads(await engine.inside("ip", "-j", "-4", "address", "show", bridge))[0]["addr_info"][0]["local"]
    async with namespace(engine, "botcard") as holder:
        await engine.inside("ip", "link", "set", "botcard", "master", bridge)
        own = gateway.rpartition(".")[0].rpartition(".")[0] + ".200.1/16"
        for command in (
            f"ip link set eth0 address {mac}",
            f"ip address add {own} dev eth0",
            "ip address add 2001:db8:b::2/64 dev eth0 nodad",
            f"ip route add default via {gateway}",
            "ip route add default via 2001:db8:b::1",
        ):
            await in_namespace(holder, command)
        await engine.inside(*f"ip address add 2001:db8:b::1/64 dev {bridge} nodad".split())

        async def reached(targets: list[Target]) -> set[Target]:
            answer = await in_namespace(holder, f"{sys.executable} -I -S -c", PROBE, json.dumps(targets))
            return {target for target, there in zip(targets, json.loads(answer), strict=True) if there}

        try:
            # Bridges forward nothing of a new port for a moment.
            await eventually(lambda: reached([(PUBLIC[0], WEB), (PUBLIC[1], WEB)]))
            yield reached
        finally:
            await engine.inside(*f"ip address del 2001:db8:b::1/64 dev {bridge}".split())


@pytest.mark.parametrize("default_bridge", [True, False], ids=["default-bridge", "own-bridge"])
@pytest.mark.usefixtures("outside")
async def test_a_bot_reaches_public_addresses_and_nothing_else_but_dns_and_what_is_allowed(
    private_engine: OwnEngine, tmp_path: Path, scope: str, default_bridge: bool
) -> None:
    bridge = "docker0" if default_bridge else OWN_BRIDGE
    everything = list(
        all_of(PUBLIC, WEB, DNS, *MAIL)
        | all_of(PRIVATE, WEB, DNS)
        | all_of(HOST, WEB, DNS)
        | {target for target, _ in REDIRECTED}
    )
    open_anyway = all_of(PUBLIC, WEB, DNS) | all_of(PRIVATE, DNS) | all_of(HOST, DNS)
    url = private_engine.url
    async with bot_containers(tmp_path, scope, url, default_bridge=default_bridge) as bots:
        await bots.runner.prepare()
        async with card(private_engine, bridge, "06:b0:00:00:00:01") as reached:
            assert await reached(everything) == open_anyway

    allowed = destinations(f"10.77.0.9:{WEB}, fc00:77::/32, 198.51.100.9:{MAIL[2]}, 198.51.100.1")
    async with bot_containers(tmp_path, scope, url, default_bridge=default_bridge, egress_allow=allowed) as bots:
        await bots.runner.prepare()
        async with card(private_engine, bridge, "06:b0:00:00:00:01") as reached:
            assert await reached(everything) - open_anyway == {
                ("10.77.0.9", WEB),
                ("fc00:77::9", WEB),
                ("198.51.100.9", MAIL[2]),
                ("198.51.100.1", WEB),
                ("198.51.100.1", 5000),
            }


@pytest.mark.usefixtures("outside")
async def test_a_container_that_is_no_bot_reaches_everything_past_the_rules_for_bots(
    private_engine: OwnEngine, tmp_path: Path, scope: str
) -> None:
    everything = all_of(PUBLIC, WEB, DNS, *MAIL) | all_of(PRIVATE, WEB) | all_of(HOST, WEB)
    everything |= {target for target, _ in REDIRECTED}
    async with bot_containers(tmp_path, scope, private_engine.url) as bots:
        await bots.runner.prepare()
        async with card(private_engine, "docker0", "06:42:00:00:00:01") as reached:
            assert await reached(list(everything)) == everything


@pytest.mark.usefixtures("outside")
async def test_a_real_bot_reaches_a_public_address_and_not_the_host(
    private_engine: OwnEngine, tmp_path: Path, scope: str
) -> None:
    async with bot_containers(tmp_path, scope, private_engine.url) as bots:
        for host, expected in [
            ("198.51.100.9", "reached"),
            ("198.51.100.1", "TimeoutError"),
            ("172.17.0.1", "TimeoutError"),
        ]:
            outcome, _ = await bots.run(CONNECT, config={"host": host, "port": WEB})
            assert outcome.result == expected
