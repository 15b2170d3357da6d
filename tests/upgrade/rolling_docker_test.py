"""A former release is replaced by this version, and comes back, one process after another, while events arrive.

The former release ends its bots when a worker stops, so each starts once on the next worker. Between workers of this
version no bot is touched: tests/end_to_end/faults/neighbour_docker_test.py and tests/deploy/compose_docker_test.py.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pymongo.asynchronous.collection import AsyncCollection

from tests.support.eventually import eventually
from tests.support.observers.overlaps import OverlapWatch, overlap_watch
from tests.support.rigs.deployment import Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.upgrade.former_release import FormerRelease
from tools.engine.ensure import Engine

pytestmark = pytest.mark.timeout(600)

CODE = """
import time
def main(id, config):
    while True:
        print("number", config["number"], flush=True)
        time.sleep(0.1)
"""
BOTS = ("a", "b")
SECONDS = 120.0
LEASE_SECONDS = 60
GAP_SECONDS = 45.0
"""Less than a lease: the segment was released, and did not lapse. On an idle machine the gap is below a second."""
EVENTS_A_STEP = 30


class Rollout:
    """The deployment with its bots, whose config counts the steps."""

    def __init__(self, made: Deployment, watch: OverlapWatch) -> None:
        self.made = made
        self.watch = watch
        self.number = 0
        self.moved = 0
        self.announced: list[str] = []

    async def move(self, leaving: str, arriving: str) -> None:
        """End a worker that owns the segment, and wait for the bots on the other one."""
        await self._stop_amid_events(leaving)
        self.moved += 1
        for bot_id in BOTS:
            await eventually(partial(self._runs_on, bot_id, arriving), within_seconds=SECONDS)
        await self.update()

    async def update(self) -> None:
        """Change the config of a bot, and wait until it runs with that."""
        self.number += 1
        await self.made.platform.update_bot("a", {"number": self.number}, key="bot.zip")
        await eventually(partial(self.made.running_with, "a", f"number {self.number}"), within_seconds=SECONDS)

    async def replace_master(self, leaving: str, arriving: str) -> None:
        """End the master, wait for the other one's leadership, and expect that no container notices."""
        before = await self.containers()
        await self._stop_amid_events(leaving)
        await self.made.processes[arriving].wait_ready()
        await self.update()
        after = await self.containers()
        assert after["b"] == before["b"]

    async def containers(self) -> Mapping[str, str]:
        """The id of each bot's container."""
        return {found["Labels"]["runtime.id"]: found["Id"] for found in await self.made.containers()}

    async def _stop_amid_events(self, leaving: str) -> None:
        stopping = asyncio.create_task(self.made.processes[leaving].process.stop(grace_seconds=SECONDS))
        try:
            for _ in range(EVENTS_A_STEP):
                bot_id = f"quiet-{len(self.announced)}"
                config = {"enabled": False, "number": len(self.announced)}
                await self.made.platform.create_bot(bot_id, config, key="bot.zip")
                self.announced.append(bot_id)
        finally:
            await stopping

    async def _runs_on(self, bot_id: str, worker: str) -> bool:
        found = await self.made.running_with(bot_id, f"number {self.number if bot_id == 'a' else 0}")
        return found is not None and found["Labels"]["runtime.worker"] == worker


async def test_rollout_and_rollback_lose_no_event_and_move_each_bot_once_per_worker(
    tmp_path: Path, docker_engine: Engine
) -> None:
    (tmp_path / "release").mkdir()
    release = FormerRelease.unpack(tmp_path / "release")
    settings = {"LEASE_SECONDS": str(LEASE_SECONDS), "MAX_BOTS_PER_PARTITION": "10000"}
    async with deployment(tmp_path, docker_engine, settings=settings) as made:
        made.platform.upload("bot.zip", zipped({"main.py": CODE}))
        for role, name in (("master", "former-master"), ("worker", "former-worker")):
            release.start_process(made, role, name)
        for process in made.processes.values():
            await process.wait_ready()
        async with overlap_watch(docker_engine, await made.scope()) as watch:
            rollout = Rollout(made, watch)
            for bot_id in BOTS:
                await made.platform.create_bot(bot_id, {"number": 0}, key="bot.zip")
                await eventually(partial(made.running_with, bot_id, "number 0"), within_seconds=SECONDS)

            await made.start_process("worker", "worker").wait_ready()
            await rollout.move("former-worker", "worker")
            made.start_process("master", "master")
            await rollout.replace_master("former-master", "master")

            await release.start_process(made, "worker", "former-worker-2").wait_ready()
            await rollout.move("worker", "former-worker-2")
            release.start_process(made, "master", "former-master-2")
            await rollout.replace_master("master", "former-master-2")

        documents = made.mongo[made.service.database][made.service.collection]
        await eventually(partial(all_stored, documents, rollout.announced), within_seconds=SECONDS)
        print("seconds without a container:", {bot_id: watch.gaps_seconds[bot_id] for bot_id in BOTS})
        assert watch.overlaps == []
        assert watch.starts["b"] == 1 + rollout.moved
        # On a machine that is busy enough the release of a lease itself may time out, and the lease lapses.
        assert min(watch.gaps_seconds["b"]) < GAP_SECONDS


async def all_stored(documents: AsyncCollection[dict[str, Any]], published: list[str]) -> bool:
    """Whether each announced bot has its document, with its config."""
    found = {
        document["id"]: document["config"]["number"] async for document in documents.find({"id": {"$in": published}})
    }
    return found == {bot_id: number for number, bot_id in enumerate(published)}
