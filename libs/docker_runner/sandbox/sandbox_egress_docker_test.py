"""What a bot's network card reaches: public addresses; no private network, not the host, no mail. IPv4 and IPv6."""

from pathlib import Path

import pytest

from libs.core.config.destinations import destinations
from libs.docker_runner.sandbox.network import OWN_BRIDGE
from tests.support.faults.hostile_bot import CONNECT
from tests.support.rigs.bot_containers import bot_containers
from tests.support.rigs.network_around import DNS, HOST, MAIL, PRIVATE, PUBLIC, REDIRECTED, WEB, Target, card, outside
from tests.support.servers.own_engine import OwnEngine

__all__ = ["outside"]


def all_of(hosts: list[str], *ports: int) -> set[Target]:
    return {(host, port) for host in hosts for port in ports}


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
        async with card(private_engine, bridge, "06:b0:00:00:00:01") as bot:
            assert await bot.reached(everything) == open_anyway

    allowed = destinations(f"10.77.0.9:{WEB}, fc00:77::/32, 198.51.100.9:{MAIL[2]}, 198.51.100.1")
    async with bot_containers(tmp_path, scope, url, default_bridge=default_bridge, egress_allow=allowed) as bots:
        await bots.runner.prepare()
        async with card(private_engine, bridge, "06:b0:00:00:00:01") as bot:
            assert await bot.reached(everything) - open_anyway == {
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
        async with card(private_engine, "docker0", "06:42:00:00:00:01") as bot:
            assert await bot.reached(list(everything)) == everything


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
