"""Half-empty segments left by a peak are merged: the last bot of one moves, with its state, and never runs twice."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.observers.overlaps import overlap_watch
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

BOT = """
import json, os, time
def main(id, config):
    path = "/state/starts"
    starts = int(open(path).read()) + 1 if os.path.exists(path) else 1
    open(path, "w").write(str(starts))
    print("start", starts, flush=True)
    while True:
        time.sleep(0.1)
"""
SECONDS = 240
SETTINGS = {**PATIENT, "MAX_BOTS_PER_PARTITION": "2", "COMPACTION_PAUSE_SECONDS": "1"}


@pytest_asyncio.fixture(loop_scope="session")
async def runner(tmp_path: Path, docker_engine: Engine) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path, docker_engine, settings=SETTINGS) as made:
        await made.start(workers=2)
        made.platform.upload("bot.zip", zipped({"main.py": BOT}))
        yield made


async def test_last_bot_of_a_half_empty_segment_moves_once_with_its_state_and_frees_the_segment(
    runner: Deployment,
) -> None:
    async with overlap_watch(runner.engine, await runner.scope()) as watch:
        for bot_id in ("b1", "b2", "b3", "b4"):
            await runner.platform.create_bot(bot_id, {}, key="bot.zip")
            await eventually(partial(runner.running_with, bot_id, "start 1"), within_seconds=SECONDS)
        before = {bot_id: await segment_of(runner, bot_id) for bot_id in ("b1", "b2", "b3", "b4")}
        assert sorted(before.values()) == [1, 1, 2, 2]
        gone = [next(bot_id for bot_id in before if before[bot_id] == segment) for segment in (1, 2)]
        [left, moving] = [bot_id for bot_id in before if bot_id not in gone]

        for bot_id in gone:
            await runner.platform.delete_bot(bot_id)

        await eventually(partial(runner.running_with, moving, "start 2"), within_seconds=SECONDS)
        await eventually(partial(runner.in_state, moving, "running"), within_seconds=SECONDS)
        await eventually(partial(occupied, runner, {1: 2}), within_seconds=SECONDS)
    assert watch.overlaps == []
    assert watch.starts[left] == 1
    run = await runner.mongo["bot_runner"]["runs"].find_one({"entity_id": moving, "reason": "moved"})
    assert run is not None
    assert run["message"] == "moved: compaction: from segment 2 to segment 1"


async def segment_of(runner: Deployment, bot_id: str) -> int:
    document = await runner.document(bot_id)
    assert document is not None
    return int(document["segment_id"])


async def occupied(runner: Deployment, wanted: dict[int, int]) -> bool:
    """Whether the partitions with entities have these counts, and those without have no owner."""
    found = [one async for one in runner.mongo["bot_runner"]["partitions"].find({})]
    owned = {one["_id"] for one in found if (one.get("lease") or {}).get("worker_id")}
    return {one["_id"]: one["bot_count"] for one in found if one["bot_count"]} == wanted and owned == wanted.keys()
