"""A whole service whose Docker engine has its own file system in place of a worker's folder."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.servers.own_engine import OwnEngine
from tools.engine.ensure import Engine

BOT = "import time\ndef main(id, config):\n    print('up', flush=True)\n    while True:\n        time.sleep(0.1)\n"
LONG_SECONDS = 120.0


@pytest_asyncio.fixture(loop_scope="session")
async def made(tmp_path: Path, private_engine: OwnEngine) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path, Engine(private_engine.url), settings=PATIENT) as made:
        made.platform.upload("bot.zip", zipped({"main.py": BOT}))
        for name in ("temp", "keepalive"):
            (tmp_path / name).mkdir()
        yield made


async def owner(made: Deployment) -> str | None:
    partition = await made.mongo["bot_runner"]["partitions"].find_one({"bot_count": {"$gt": 0}})
    lease = (partition or {}).get("lease") or {}
    return str(lease["worker_id"]) if lease.get("worker_id") else None


async def hindered(made: Deployment, text: str) -> bool:
    docker = (await made.readiness("w1")).get("docker") or {}
    return docker.get("ok") is False and text in str(docker.get("detail"))


async def ready(made: Deployment) -> bool:
    return bool((await made.readiness("w1"))["docker"]["ok"])


def errors(made: Deployment) -> list[str]:
    """The reasons of the errors about folders in the worker's log."""
    lines = [json.loads(line) for line in (made.folder / "w1.log").read_text().splitlines() if line.startswith("{")]
    return [line["reason"] for line in lines if line["level"] == "error" and "does not see" in line.get("reason", "")]


@pytest.mark.parametrize(("hidden", "setting"), [("temp", "TEMP_DIR"), ("keepalive", "KEEPALIVE_DIR")])
async def test_worker_with_folder_hidden_from_engine_takes_no_segment_until_visible(
    made: Deployment, private_engine: OwnEngine, hidden: str, setting: str
) -> None:
    said = f"the Docker engine does not see {setting}={made.folder / hidden}: mount the same folder"
    async with private_engine.hiding(made.folder / hidden):
        made.start_process("master", "master")
        made.start_process("worker", "w1")
        await eventually(lambda: hindered(made, said), LONG_SECONDS)
        await made.platform.create_bot("b1", {}, key="bot.zip")
        await made.start_process(
            "worker", "w2", TEMP_DIR=f"{made.folder}/other", KEEPALIVE_DIR=f"{made.folder}/k2"
        ).wait_ready()
        await eventually(lambda: made.running_with("b1", "up"), LONG_SECONDS)
        assert await owner(made) == "w2"
        assert len(errors(made)) == 1

    await eventually(lambda: ready(made), LONG_SECONDS)
    await made.processes["w2"].process.stop(LONG_SECONDS)
    await eventually(lambda: owned_by(made, "w1"), LONG_SECONDS)
    await eventually(lambda: made.running_with("b1", "up"), LONG_SECONDS)


async def owned_by(made: Deployment, worker: str) -> bool:
    return await owner(made) == worker


async def test_worker_finds_out_that_an_engine_came_back_without_its_folder(
    made: Deployment, private_engine: OwnEngine
) -> None:
    await made.start(workers=1)
    await private_engine.stop()
    async with private_engine.hiding(made.folder / "temp"):
        await private_engine.start()
        await eventually(lambda: hindered(made, "does not see TEMP_DIR="), LONG_SECONDS)
    await eventually(lambda: ready(made), LONG_SECONDS)
