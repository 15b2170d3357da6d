"""A bot with ``config.egress`` reaches its hosts and nothing else, also when its worker ends."""

import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from libs.core.config.destinations import destinations
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.entrypoints import guard
from libs.docker_runner.executable import Executable
from libs.docker_runner.sandbox.egress import read
from libs.docker_runner.sandbox.narrowed_hosts import entries_of
from libs.docker_runner.sandbox.network import OWN_BRIDGE, BotNetwork, refused_in
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tests.support.rigs.network_around import DNS, HOST, MAIL, PRIVATE, PUBLIC, SINK, WEB, Target, card, outside
from tests.support.servers.own_engine import OwnEngine

__all__ = ["outside"]

NAMES = {"exchange.example": PUBLIC, "rebound.example": ["10.77.0.9", "169.254.169.254"]}
EVERYTHING = [(host, port) for host in [*PUBLIC, *PRIVATE, *HOST] for port in (WEB, DNS, SINK)]

# What a bot reaches by TCP, and the name servers that answer it.
TRY = """
import concurrent.futures, socket
def reached(target):
    host, port = target
    try:
        socket.create_connection((host, port), timeout=2).close()
        return "reached"
    except OSError as error:
        return type(error).__name__
def asked(server):
    query = bytes.fromhex("123401000001000000000000") + b"\\x06secret\\x04evil\\x07example\\x00\\x00\\x01\\x00\\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(1)
        try:
            sender.sendto(query, (server, 53))
            return sender.recv(512).hex()
        except OSError as error:
            return type(error).__name__
def main(id, config):
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        tried = threads.map(reached, config["targets"]), threads.map(asked, config["servers"])
        return {"reached": list(tried[0]), "asked": list(tried[1])}
"""
TRY_AGAIN = """
import socket
def main(id, config):
    while True:
        try:
            socket.create_connection((config["host"], config["port"]), timeout=1).close()
        except TimeoutError:
            pass
"""
# Keeps one connection, and prints a line for each byte that the other end has acknowledged.
KEEP = """
import array, fcntl, socket, termios, time
def unacknowledged(connection):
    count = array.array("i", [0])
    fcntl.ioctl(connection, termios.TIOCOUTQ, count)
    return count[0]
def main(id, config):
    try:
        socket.create_connection(config["refused"], timeout=0.5)
    except TimeoutError:
        pass
    with socket.create_connection((config["host"], config["port"]), timeout=10) as connection:
        print("connected", flush=True)
        for number in range(600):
            connection.sendall(b"x")
            while unacknowledged(connection):
                time.sleep(0.01)
            time.sleep(0.1)
            print("sent", number, flush=True)
"""

# What the engine's name server in a container of the separate network asks: the bot itself, at the only address it has.
ASKED = """
import socket
def main():
    question = bytes.fromhex("123401000001000000000000") + b"\\x06secret\\x04evil\\x07example\\x00\\x00\\x01\\x00\\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as sender:
        server.bind(("127.0.0.1", 53))
        server.settimeout(10)
        sender.sendto(question, ("127.0.0.11", 53))
        return b"secret" in server.recv(512)
"""
# What the time of an entry does that no worker renews.
CLOSE = """
import sys
sys.path.insert(0, sys.argv[1])
import nftables as nft
described = [(1, nft.text("the0-narrowed-hosts")), (2, nft.text("allowed4"))]
nft.in_one_step(nft.INET_FAMILY, [(nft.DELETE_ELEMENT, 0, described)])
assert not list(nft.elements("the0-narrowed-hosts", nft.INET_FAMILY, "allowed4"))
"""


def resolve(name: str) -> list[str]:
    try:
        return NAMES[name]
    except KeyError:
        raise socket.gaierror(name) from None


def narrowed(bots: BotContainers, source: str, *egress: str, id: str = "b1", **config: Any) -> Executable:  # noqa: A002
    return bots.executable(source, id, config=config, egress=",".join(egress))


@pytest.fixture(params=[True, False], ids=["default-bridge", "own-bridge"])
def default_bridge(request: pytest.FixtureRequest) -> bool:
    chosen: bool = request.param
    return chosen


@pytest.mark.usefixtures("outside")
async def test_narrowed_bot_reaches_its_hosts_by_name_and_nothing_else(
    private_engine: OwnEngine, tmp_path: Path, scope: str, default_bridge: bool
) -> None:
    targets = [
        ("exchange.example", WEB),
        (PUBLIC[0], WEB),
        (PUBLIC[0], SINK),
        ("other.example", WEB),
        ("rebound.example", WEB),
        (PUBLIC[0], DNS),
        ("172.17.0.1", DNS),
        ("172.17.0.1", WEB),
    ]
    async with bot_containers(tmp_path, scope, private_engine.url, resolve, default_bridge=default_bridge) as bots:
        executable = narrowed(
            bots, TRY, f"exchange.example:{WEB}", f"rebound.example:{WEB}", f"unknown.example:{WEB}",
            targets=targets, servers=[PUBLIC[0], "172.17.0.1", "127.0.0.11"],
        )  # fmt: skip

        outcome = await bots.outcome(executable)

        assert outcome.result == {
            "reached": ["reached", "reached", "TimeoutError", "gaierror", *["TimeoutError"] * 4],
            "asked": ["TimeoutError"] * 3,
        }


async def test_name_server_in_a_narrowed_bot_on_the_separate_bridge_asks_nothing_outside_of_it(
    private_engine: OwnEngine, tmp_path: Path, scope: str
) -> None:
    async with bot_containers(tmp_path, scope, private_engine.url, resolve, default_bridge=False) as bots:
        outcome = await bots.outcome(narrowed(bots, ASKED, f"exchange.example:{WEB}"))

        assert outcome.result is True


@pytest.mark.usefixtures("outside")
async def test_cards_share_no_hosts_and_a_card_without_hosts_reaches_nothing(
    private_engine: OwnEngine, tmp_path: Path, scope: str, default_bridge: bool
) -> None:
    private = f"10.77.0.9:{WEB}"
    allowed = destinations(f"[fc00:77::9]:{WEB}")
    async with bot_containers(tmp_path, scope, private_engine.url, resolve, egress_allow=allowed) as bots:
        engine = Engine(private_engine.url)
        image = bots.settings.images["python3.11"]
        network = BotNetwork(engine, image, allowed=allowed, default_bridge=default_bridge)
        hosts = {
            "00000001": [f"exchange.example:{WEB}", private, f"[fc00:77::9]:{WEB}"],
            "00000002": [f"{PUBLIC[0]}:{SINK}"],
            "00000003": [],
        }
        lines = [line for token, own in hosts.items() for line in entries_of(token, read(",".join(own)), NAMES)]
        entries = tmp_path / "entries"
        entries.write_text("".join(f"{line}\n" for line in lines))
        entries.chmod(0o644)
        try:
            await network.narrow(bots.runner.entrypoints(), entries)
            found: list[set[Target]] = []
            for number, token in enumerate(hosts, start=1):
                bridge = "docker0" if default_bridge else OWN_BRIDGE
                async with card(private_engine, bridge, "06:42:00:00:00:01", number) as bot:
                    # Its own address before it is narrowed: a narrowed one reaches nothing to wait for.
                    await bot.change_address(f"06:b1:00:00:00:{token[-2:]}")
                    found.append(await bot.reached(EVERYTHING))
            refused = refused_in(await network.narrow(bots.runner.entrypoints(), entries))
        finally:
            await engine.close()

        # Of the private addresses only the one that the operator opened.
        assert found == [
            {(PUBLIC[0], WEB), (PUBLIC[1], WEB), ("fc00:77::9", WEB)},
            {(PUBLIC[0], SINK)},
            set(),
        ]
        assert [len(refused[f"06:b1:00:00:00:{token[-2:]}"]) for token in hosts] == [5, 5, 5]
        assert f"{PUBLIC[0]}:{WEB}" not in refused["06:b1:00:00:00:01"]


@pytest.mark.parametrize("bridge", ["docker0", OWN_BRIDGE])
@pytest.mark.usefixtures("outside")
async def test_what_a_bot_without_a_list_is_refused_is_known_for_its_card(
    private_engine: OwnEngine, tmp_path: Path, scope: str, bridge: str
) -> None:
    tried = [("10.77.0.9", WEB), (PUBLIC[0], MAIL[0]), (HOST[0], WEB), ("fc00:77::9", WEB), (PUBLIC[0], WEB)]
    async with bot_containers(tmp_path, scope, private_engine.url) as bots:
        engine = Engine(private_engine.url)
        network = BotNetwork(
            engine, bots.settings.images["python3.11"], renew_seconds=0, default_bridge=bridge != OWN_BRIDGE
        )
        try:
            await network.renew(bots.runner.entrypoints())
            async with card(private_engine, bridge, "06:b0:00:00:00:31", 1) as bot:
                reached = await bot.reached(tried)
            await network.renew(bots.runner.entrypoints())
        finally:
            await engine.close()

    assert reached == {(PUBLIC[0], WEB)}
    assert set(network.refused("00000031ffff")) == {
        f"10.77.0.9:{WEB}", f"{PUBLIC[0]}:{MAIL[0]}", f"{HOST[0]}:{WEB}", f"[fc00:77::9]:{WEB}"
    }  # fmt: skip
    assert network.refused("00000032ffff") == ()


@pytest.mark.usefixtures("outside")
async def test_bot_on_the_separate_bridge_is_listed_with_what_it_was_refused(
    private_engine: OwnEngine, tmp_path: Path, scope: str
) -> None:
    async with bot_containers(tmp_path, scope, private_engine.url, default_bridge=False, walls_seconds=0.0) as bots:
        await bots.runner.prepare()
        await bots.runner.start(bots.executable(TRY_AGAIN, "bot", config={"host": "10.77.0.9", "port": WEB}))

        async def refused() -> list[Sequence[str]]:
            await bots.runner.prepare()
            return [one.refused for one in await bots.list() if one.refused]

        assert await eventually(refused) == [[f"10.77.0.9:{WEB}"]]


@pytest.mark.usefixtures("outside")
async def test_connection_of_a_narrowed_bot_survives_its_worker_and_follows_a_changed_address(
    private_engine: OwnEngine, tmp_path: Path, scope: str, default_bridge: bool
) -> None:
    names = {"exchange.example": [PUBLIC[0]]}
    url = private_engine.url
    async with bot_containers(tmp_path, scope, url, lambda name: names[name], default_bridge=default_bridge) as first:
        executable = narrowed(
            first, KEEP, f"exchange.example:{SINK}", host="exchange.example", port=SINK, refused=(PUBLIC[0], WEB)
        )
        container = await first.runner.start(executable)
        await eventually(lambda: lines_of(first, container, "connected"))
        assert [one.refused for one in await first.list()] == [()]
    names["exchange.example"] = ["203.0.113.5"]
    async with bot_containers(tmp_path, scope, url, lambda name: names[name], default_bridge=default_bridge) as second:
        await second.runner.prepare()
        (hosts_file,) = (tmp_path / "runtime" / "runs").glob("*/*/*/hosts")
        hosts = hosts_file.read_text()
        await private_engine.inside(sys.executable, "-c", CLOSE, str(Path(guard.__file__).parent))
        refused = [one.refused for one in await second.list()]
        before = len(await lines_of(second, container, "sent"))
        await eventually(lambda: lines_after(second, container, before + 3))
        await second.runner.remove(container)

    assert refused == [[f"{PUBLIC[0]}:{WEB}"]]
    assert "203.0.113.5 exchange.example\n" in hosts
    assert PUBLIC[0] not in hosts


async def lines_of(bots: BotContainers, container: Any, word: str) -> list[str]:
    pieces = [piece.data.decode() async for piece in bots.runner.logs(container)]
    return [line for line in "".join(pieces).splitlines() if line.startswith(word)]


async def lines_after(bots: BotContainers, container: Any, count: int) -> bool:
    return len(await lines_of(bots, container, "sent")) > count
