"""A worker dies or ends, and another one of its engine continues its containers: none of them notices."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.observers.overlaps import overlap_watch
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.dev.service import ServiceProcess
from tools.engine.ensure import Engine

BOT = """
import time
def main(id, config):
    number = 0
    while True:
        print("tick", number, time.monotonic(), flush=True)
        number += 1
        time.sleep(0.05)
"""
BOTS = ("b1", "b2", "b3")
SECONDS = 120
GAP_SECONDS = 2.0
"""The bots are not touched at all; this is what a busy machine makes of a sleep of 50 ms."""
TICKS_AFTERWARDS = 40


@pytest_asyncio.fixture(loop_scope="session")
async def runner(tmp_path: Path, docker_engine: Engine) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path, docker_engine, settings={**PATIENT, "MAX_BOTS_PER_PARTITION": "2"}) as made:
        await made.start(workers=2)
        made.platform.upload("bot.zip", zipped({"main.py": BOT}))
        yield made


async def kill(process: ServiceProcess) -> None:
    await process.process.kill()


async def end(process: ServiceProcess) -> None:
    await process.process.stop()


@pytest.mark.parametrize("leave", [kill, end], ids=["killed", "ended"])
async def test_bots_of_a_worker_that_leaves_tick_on_beside_another_worker(
    runner: Deployment, leave: Callable[[ServiceProcess], Awaitable[None]]
) -> None:
    async with overlap_watch(runner.engine, await runner.scope()) as watch:
        for bot_id in BOTS:
            await runner.platform.create_bot(bot_id, {}, key="bot.zip")
        await eventually(partial(all_ticked, runner, 20), within_seconds=SECONDS)
        gone = await owner(runner, "b1")
        [left] = {"w1", "w2"} - {gone}

        await leave(runner.processes[gone])

        await eventually(partial(all_owned_by, runner, left), within_seconds=SECONDS)
        reached = {bot_id: len(await ticks(runner, bot_id)) for bot_id in BOTS}
        await eventually(partial(went_on, runner, reached), within_seconds=SECONDS)
        for bot_id in BOTS:
            times = await ticks(runner, bot_id)
            gap = max(later - earlier for earlier, later in itertools.pairwise(times))
            assert gap <= GAP_SECONDS, (bot_id, gap)
    assert watch.overlaps == []
    assert {bot_id: watch.starts[bot_id] for bot_id in BOTS} == dict.fromkeys(BOTS, 1)


async def ticks(runner: Deployment, bot_id: str) -> list[float]:
    """The times of all ticks of the bot's running container."""
    [container] = await runner.containers(bot_id)
    return [float(line.split()[2]) for line in runner.output(container).splitlines() if line.startswith("tick ")]


async def all_ticked(runner: Deployment, at_least: int) -> bool:
    found = [await runner.containers(bot_id) for bot_id in BOTS]
    return all(found) and all([len(await ticks(runner, bot_id)) >= at_least for bot_id in BOTS])


async def went_on(runner: Deployment, reached: dict[str, int]) -> bool:
    return all([len(await ticks(runner, bot_id)) >= reached[bot_id] + TICKS_AFTERWARDS for bot_id in BOTS])


async def all_owned_by(runner: Deployment, worker_id: str) -> bool:
    return {await owner(runner, bot_id) for bot_id in BOTS} == {worker_id}


async def owner(runner: Deployment, bot_id: str) -> str:
    """The worker that has the lease of the bot's segment; empty while none has."""
    document = await runner.document(bot_id)
    assert document is not None
    partition = await runner.mongo["bot_runner"]["partitions"].find_one({"_id": document["segment_id"]})
    return str((partition or {}).get("lease", {}).get("worker_id") or "")
