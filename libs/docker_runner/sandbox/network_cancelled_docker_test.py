"""Cancellation of the setup of the bots' network, as by Ctrl-C before a bot runs."""

import asyncio
from pathlib import Path

import pytest

from libs.docker_runner.containers.container import Label
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.helper_container import GUARD_SERVICE
from libs.docker_runner.sandbox.network import BotNetwork
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import bot_containers
from tests.support.servers.own_engine import OwnEngine


async def test_cancelled_setup_of_the_network_ends_after_the_removal_of_its_helpers(
    private_engine: OwnEngine, tmp_path: Path, scope: str
) -> None:
    async def helpers() -> list[str]:
        found = await private_engine.containers()
        return [one["Id"] for one in found if one["Labels"].get(Label.SERVICE) == GUARD_SERVICE]

    async def has_two_helpers() -> bool:
        return len(await helpers()) == 2

    async with bot_containers(tmp_path, scope, private_engine.url) as bots:
        engine = Engine(private_engine.url)
        network = BotNetwork(engine, bots.settings.images["python3.11"])
        others = asyncio.all_tasks()
        setup = asyncio.create_task(network.ensure(bots.runner.entrypoints()))
        try:
            await eventually(has_two_helpers, 60, 0.005)
            setup.cancel()
            with pytest.raises(asyncio.CancelledError):
                await setup

            assert asyncio.all_tasks() == others
            assert await helpers() == []
        finally:
            await engine.close()
