"""A whole service whose Docker engine is restarted under it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.servers.own_engine import OwnEngine
from tools.engine.ensure import Engine

BOT = "import time\ndef main(id, config):\n    print('up', flush=True)\n    while True:\n        time.sleep(0.1)\n"
BOTS = ["b1", "b2"]


@pytest_asyncio.fixture(loop_scope="session")
async def runner(tmp_path: Path, private_engine: OwnEngine) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path, Engine(private_engine.url), settings=PATIENT) as made:
        made.platform.upload("bot.zip", zipped({"main.py": BOT}))
        yield made


async def test_bots_that_a_restarted_engine_has_ended_run_again_and_their_ends_are_on_record(
    runner: Deployment, private_engine: OwnEngine
) -> None:
    await runner.start(workers=1)
    # One by one, so that they come into one segment.
    before = {bot_id: await running(runner, bot_id) for bot_id in BOTS}

    await private_engine.stop()
    await private_engine.start()

    async def run_again() -> bool:
        now = {bot_id: await runner.running_with(bot_id, "up") for bot_id in BOTS}
        return all(found is not None and found["Id"] != before[bot_id] for bot_id, found in now.items())

    await eventually(run_again)
    ended = runner.mongo["bot_runner"]["runs"].find({"container_id": {"$in": list(before.values())}})
    assert sorted([(run["entity_id"], run["reason"], run["exit_code"]) async for run in ended]) == [
        ("b1", "killed", 143),
        ("b2", "killed", 143),
    ]

    async def says_so() -> bool:
        return bool((await runner.readiness("w1"))["docker"]["ok"])

    await eventually(says_so)


async def running(runner: Deployment, bot_id: str) -> str:
    """Create a bot; return the id of its container, once its document says that it runs."""
    await runner.platform.create_bot(bot_id, {}, key="bot.zip")
    found = await eventually(lambda: runner.running_with(bot_id, "up"))
    await eventually(lambda: runner.in_state(bot_id, "running"))
    assert found is not None
    return str(found["Id"])
