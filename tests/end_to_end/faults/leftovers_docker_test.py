"""What remains on a host of workers that were killed: nothing, once their bots are gone and the next one has looked."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.rigs.deployment import Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.servers.own_engine import OwnEngine
from tools.engine.ensure import Engine

SEED = 20_260_131
KILLS = 5
BOTS = ["b1", "b2", "b3", "b4"]
BOT = "import time\ndef main(id, config):\n    while True:\n        print(id, flush=True)\n        time.sleep(0.1)\n"
SHORT = "def main(id, config):\n    print('short', flush=True)\n    return 1\n"


@pytest_asyncio.fixture(loop_scope="session")
async def runner(tmp_path: Path, private_engine: OwnEngine) -> AsyncIterator[Deployment]:
    # The host agent stays as long as there are bots on the machine, also those of other tests.
    settings = {"MAX_BOTS_PER_PARTITION": str(len(BOTS) + 1), "BOT_STOP_SECONDS": "1", "HOST_AGENT": "false"}
    async with deployment(tmp_path, Engine(private_engine.url), settings=settings) as made:
        made.platform.upload("bot.zip", zipped({"main.py": BOT}))
        made.platform.upload("short.zip", zipped({"main.py": SHORT}))
        yield made


async def come_and_go(runner: Deployment, chance: random.Random) -> None:
    """Create, change and delete bots, endlessly."""
    while True:
        bot_id, key = chance.choice(BOTS), chance.choice(["bot.zip", "bot.zip", "short.zip"])
        if chance.random() < 0.7:
            await runner.platform.update_bot(bot_id, {"n": chance.random()}, key=key)
        else:
            await runner.platform.delete_bot(bot_id)
        await asyncio.sleep(chance.uniform(0.05, 0.4))


def left_behind(folder: Path) -> list[str]:
    """What there is of single bots below a worker's TEMP_DIR; code that may be used again is none of it."""
    parts = ("runs/*/*", "outputs/*/*", "logs/*/*", "code/holds/*/*", "code/work/*", "entrypoints/.*")
    return sorted(str(path.relative_to(folder)) for part in parts for path in folder.glob(part))


def age(folder: Path) -> None:
    """Age all files: young ones may be about to be used."""
    for path in folder.rglob("*"):
        os.utime(path, (1.0, 1.0), follow_symlinks=False)


async def test_workers_killed_at_any_moment_leave_nothing_behind(runner: Deployment, private_engine: OwnEngine) -> None:
    chance = random.Random(SEED)
    temp = runner.folder / "temp"
    await runner.start(workers=1)
    await runner.platform.create_bot("steady", {}, key="bot.zip")
    assert await eventually(lambda: runner.running_with("steady", "steady"))
    assert private_engine.mounts() != []
    coming_and_going = asyncio.create_task(come_and_go(runner, chance))
    for number in range(KILLS):
        # Every other one in the midst of its start.
        if number % 2 == 0:
            await runner.processes["w1"].wait_ready()
        await asyncio.sleep(chance.uniform(0.2, 2.0))
        await runner.processes["w1"].process.kill()
        runner.start_process("worker", "w1")
    await runner.processes["w1"].wait_ready()
    coming_and_going.cancel()
    await asyncio.gather(coming_and_going, return_exceptions=True)
    await eventually(lambda: left_behind(temp))

    for bot_id in ["steady", *BOTS]:
        await runner.platform.delete_bot(bot_id)

    async def all_gone() -> bool:
        documents = await runner.mongo["bot_runner"]["bots"].count_documents({"deleted_at": None})
        return not documents and await strays(private_engine) == []

    # If the segment is empty before it has an owner again, its dead containers stay for a minute.
    await eventually(all_gone, within_seconds=180)
    # The first one uploads what output was left, and the second one finds the folders empty.
    for name, successor in (("w1", "w2"), ("w2", "w3")):
        await eventually(lambda: list(temp.glob("logs/*/*/*.spool")) == [])
        await runner.processes[name].process.stop(grace_seconds=30)
        age(temp)
        await runner.start_process("worker", successor).wait_ready()

    async def nothing_left() -> bool:
        assert left_behind(temp) == []
        assert await strays(private_engine) == []
        assert private_engine.mounts() == []
        assert await private_engine.networks() == {"bridge", "host", "none"}
        return True

    await eventually(nothing_left)


async def strays(engine: OwnEngine) -> list[str]:
    """Containers on the engine. A helper that put up walls for a worker that was killed is left for two minutes."""
    return [
        f"{container['Names'][0]} {container['State']}"
        for container in await engine.containers()
        if container["Labels"].get("runtime.service") != "guard" or container["State"] == "running"
    ]
