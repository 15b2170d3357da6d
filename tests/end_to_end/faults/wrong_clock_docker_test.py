"""A worker on a host whose clock is ten minutes ahead: what it stores for all workers is by MongoDB's time."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from libs.core.process.service import BOT_SCHEDULER
from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.servers.mongo_clock import faked_clock
from tools.engine.ensure import Engine

# An S3 server refuses requests of a clock that is further off.
AHEAD_SECONDS = 600.0
SECONDS = 120
NOISE_SECONDS = 200.0
"""What a busy machine may add to any duration."""


async def test_schedule_fires_at_its_time_by_mongodbs_clock(tmp_path: Path, docker_engine: Engine) -> None:
    async with deployment(tmp_path, docker_engine, service=BOT_SCHEDULER, settings=PATIENT) as made:
        await start_with_wrong_clock(made)
        made.platform.upload("bot.zip", zipped({"main.py": "def main(id, config):\n    return {}\n"}))
        payload = made.platform.payload("s1", {"schedule": "@every 2s"}, key="bot.zip")
        await made.platform.publish("the0.bot-schedule.created", payload)

        run = await eventually(partial(first_run, made, "s1"), within_seconds=SECONDS)

        document = await made.document("s1")
        assert document is not None
        assert run["scheduled_at"].timestamp() == pytest.approx(time.time(), abs=NOISE_SECONDS)
        assert document["next_execution_time"] == pytest.approx(time.time(), abs=NOISE_SECONDS)


async def start_with_wrong_clock(made: Deployment) -> None:
    master = made.start_process("master", "master")
    worker = made.start_process("worker", "w1", **faked_clock(AHEAD_SECONDS))
    await master.wait_ready()
    await worker.wait_ready()


async def first_run(made: Deployment, entity_id: str) -> dict[str, Any] | None:
    runs = made.mongo[made.service.database]["runs"]
    return await runs.find_one({"entity_id": entity_id, "open": False})
