"""A whole service whose Docker engine is restarted under it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.servers.own_engine import OwnEngine
from tools.engine.ensure import Engine

BOT = """
import pathlib, time
count = pathlib.Path("/state/count")

def main(id, config):
    number = int(count.read_text()) if count.exists() else 0
    print("up from", number, flush=True)
    while True:
        number += 1
        count.with_name("new").write_text(str(number))
        count.with_name("new").rename(count)
        time.sleep(0.1)
"""
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

    async def all_saved() -> bool:
        return all([await saved_count(runner, bot_id) > 0 for bot_id in BOTS])

    await eventually(all_saved)

    await private_engine.stop()
    saved_before = {bot_id: await saved_count(runner, bot_id) for bot_id in BOTS}
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
    for bot_id, count in saved_before.items():
        found = await runner.running_with(bot_id, "up from")
        assert found is not None
        began_with = int(runner.output(found).split()[2])
        assert began_with >= count > 0, "the count goes on, from what was saved or later"


async def saved_count(runner: Deployment, bot_id: str) -> int:
    """Return the count that a bot keeps, as of its latest saved version; 0 without one."""
    shown = await runner.terminal().run("bot", "state", "get", bot_id, "count")
    return int(shown.out) if shown.code == 0 else 0


async def running(runner: Deployment, bot_id: str) -> str:
    """Create a bot; return the id of its container, once its document says that it runs."""
    await runner.platform.create_bot(bot_id, {}, key="bot.zip")
    found = await eventually(lambda: runner.running_with(bot_id, "up"))
    await eventually(lambda: runner.in_state(bot_id, "running"))
    assert found is not None
    return str(found["Id"])
