"""Repair of the firewall rules of the bots' network after their removal while bots run."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from libs.core.config.destinations import destinations
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.entrypoints import guard
from libs.docker_runner.errors import SandboxUnavailable
from tests.support.eventually import eventually
from tests.support.faults.hostile_bot import CONNECT, SERVE, address_of, has_output
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tests.support.servers.own_engine import OwnEngine
from tools.engine.ensure import Engine

# What `nft flush ruleset` and `iptables --flush` do to what is ours and what is the engine's.
FLUSH = """
import sys
sys.path.insert(0, sys.argv[1])
import struct
import nftables as guard
inet = guard.INET_FAMILY
for name, family in (("the0-bots", guard.BRIDGE_FAMILY), ("the0-bots", inet), ("the0-the0-bots", inet)):
    table = [(1, guard.text(name))]
    batch = struct.pack(">BBH", 0, 0, 10)
    steps = [(guard.NEW_TABLE, guard.CREATE), (guard.DELETE_TABLE, 0)]
    messages = [guard.message(guard.BATCH_BEGIN, guard.REQUEST, 0, batch)]
    for number, (kind, flags) in enumerate(steps, start=1):
        body = struct.pack(">BBH", family, 0, 0) + guard.pack(table)
        messages.append(guard.message(kind, guard.REQUEST | guard.ACK | flags, number, body))
    messages.append(guard.message(guard.BATCH_END, guard.REQUEST, 9, batch))
    with guard.netlink(guard.NETFILTER) as connection:
        guard.send(connection, messages, acks=2)
"""


@pytest.fixture(params=[True, False], ids=["default-bridge", "own-bridge"])
def default_bridge(request: pytest.FixtureRequest) -> bool:
    chosen: bool = request.param
    return chosen


@pytest_asyncio.fixture(loop_scope="session")
async def bots(
    tmp_path: Path, scope: str, private_engine: OwnEngine, default_bridge: bool
) -> AsyncIterator[BotContainers]:
    url = private_engine.url
    async with bot_containers(tmp_path, scope, url, default_bridge=default_bridge, walls_seconds=0.0) as bots:
        yield bots


@asynccontextmanager
async def listening(bots: BotContainers) -> AsyncIterator[ManagedContainer]:
    """A bot that others try to reach."""
    server = await bots.runner.start(bots.executable(SERVE, "server"))
    await eventually(lambda: has_output(bots, server))
    yield server
    await bots.runner.remove(server)


async def reached(bots: BotContainers, engine: OwnEngine, server: ManagedContainer) -> bool:
    host = await address_of(Engine(engine.url), server)
    outcome, _ = await bots.run(CONNECT, id="client", config={"host": host, "port": 8000})
    return outcome.result == "reached"


async def test_walls_that_were_flushed_are_put_up_again_while_bots_run(
    bots: BotContainers, private_engine: OwnEngine
) -> None:
    async with listening(bots) as server:
        assert not await reached(bots, private_engine, server)
        folder = str(Path(guard.__file__).parent)
        await private_engine.inside(sys.executable, "-c", FLUSH, folder)
        await private_engine.inside("iptables", "--flush", "FORWARD")
        await private_engine.inside("iptables", "--policy", "FORWARD", "ACCEPT")
        assert await reached(bots, private_engine, server)

        await bots.runner.prepare()

        assert not await reached(bots, private_engine, server)


@pytest.mark.parametrize("default_bridge", [True], indirect=True)
async def test_walls_that_cannot_be_set_up_are_logged_once_per_failure_period(
    bots: BotContainers, private_engine: OwnEngine
) -> None:
    async def said_while_they_fail() -> list[str]:
        await bots.runner.prepare()
        reasons = set()
        async with private_engine.hiding(bots.settings.temp_dir):
            with capture_logs() as lines:
                # The first finds that they do not stand; the others try to put them up.
                for _ in range(3):
                    with pytest.raises(SandboxUnavailable) as raised:
                        await bots.runner.prepare()
                    reasons.add(str(raised.value))
        # The same text each time, so that readiness does not change with each attempt.
        assert len(reasons) == 1
        return [line["log_level"] for line in lines if line["event"].startswith("the default bridge cannot be secured")]

    assert await said_while_they_fail() == ["info", "debug"]
    assert await said_while_they_fail() == ["info", "debug"]


async def test_worker_whose_rules_another_one_with_other_settings_replaces_logs_it_once(
    private_engine: OwnEngine, tmp_path: Path, scope: str
) -> None:
    def replaced(logs: list[Any]) -> list[Any]:
        return [entry for entry in logs if "replaced by another worker's" in entry["event"]]

    url, other = private_engine.url, destinations("10.9.8.7:6543")
    with capture_logs() as logs:
        async with (
            bot_containers(tmp_path / "one", scope, url, walls_seconds=0.0) as one,
            bot_containers(tmp_path / "two", scope, url, walls_seconds=0.0, egress_allow=other) as two,
        ):
            await one.runner.prepare()
            await one.runner.prepare()
            assert replaced(logs) == []
            for _ in range(2):
                await two.runner.prepare()
                await one.runner.prepare()

    said = replaced(logs)
    assert len(said) == 2  # once for each of the two
    assert "EGRESS_ALLOW" in said[0]["reason"]
