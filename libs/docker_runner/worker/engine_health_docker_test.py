"""What a real engine lacks before a worker takes segments."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest_asyncio

from libs.docker_runner.engine.client import Engine
from libs.docker_runner.worker.engine_health import EngineHealth
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tests.support.servers.own_engine import OwnEngine

MISSING = "127.0.0.1:1/bots/node:20"
"""No registry listens there."""
ABSENT = "127.0.0.1:1/bots/python:3.11"


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, private_engine: OwnEngine) -> AsyncIterator[BotContainers]:
    async with bot_containers(
        tmp_path, scope, private_engine.url, images={"python3.11": "python:3.11-slim", "nodejs20": MISSING}
    ) as bots:
        yield bots


@asynccontextmanager
async def health_of(bots: BotContainers, engine: OwnEngine, *, continues: bool = False) -> AsyncIterator[EngineHealth]:
    """The health of an engine at which nothing was looked yet."""

    async def known() -> bool:
        return continues

    client = Engine(engine.url)
    try:
        yield EngineHealth(bots.runner, client, bots.settings, "engine", bots.settings.temp_dir / "keepalive", known)
    finally:
        await client.close()


async def test_worker_is_hindered_until_the_network_of_bots_is_secured_and_not_by_an_image_it_lacks(
    bots: BotContainers, private_engine: OwnEngine
) -> None:
    async with health_of(bots, private_engine) as health:
        seen: list[str] = []
        health.on_change(lambda: seen.append(health.impediment()))
        await health.check_first()
        assert health.impediment() == "the network of bots is being set up"

        parts = [asyncio.create_task(health.pull_for_ever()), asyncio.create_task(health.prepare_for_ever())]
        await eventually(lambda: health.impediment() == "", within_seconds=120)
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)

        assert seen[-1] == ""
        outcome, _ = await bots.run("def main(id, config): return 'ran'")
        assert outcome.result == "ran"


async def test_worker_that_continues_containers_is_not_hindered(bots: BotContainers, private_engine: OwnEngine) -> None:
    async with health_of(bots, private_engine, continues=True) as health:
        await health.check_first()

        assert health.impediment() == ""


async def test_reason_of_a_failed_pull_is_the_hindrance_of_a_network_without_its_image(
    tmp_path: Path, scope: str, private_engine: OwnEngine
) -> None:
    images = {"python3.11": ABSENT, "nodejs20": MISSING}
    async with (
        bot_containers(tmp_path, scope, private_engine.url, images=images) as bots,
        health_of(bots, private_engine) as health,
    ):
        parts = [asyncio.create_task(health.pull_for_ever()), asyncio.create_task(health.prepare_for_ever())]
        await eventually(lambda: "cannot be pulled" in health.impediment(), within_seconds=120)
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)

        assert ABSENT in health.impediment()
