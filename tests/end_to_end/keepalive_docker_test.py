"""Bots live through an upgrade that puts their keepalive files elsewhere."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.deployment import PATIENT, Deployment, deployment
from tests.support.eventually import eventually
from tests.support.overlaps import overlap_watch
from tests.support.platform import zipped
from tools.engine.ensure import Engine

BOT = "import time\ndef main(id, config):\n    print('up', flush=True)\n    while True:\n        time.sleep(0.1)\n"
LEASE_SECONDS = float(PATIENT["LEASE_SECONDS"])


@pytest_asyncio.fixture(loop_scope="session")
async def runner(tmp_path: Path, docker_engine: Engine) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path, docker_engine, settings=PATIENT) as made:
        made.platform.upload("bot.zip", zipped({"main.py": BOT}))
        yield made


async def test_a_bot_lives_on_when_its_worker_comes_back_with_another_keepalive_folder(
    runner: Deployment, docker_engine: Engine
) -> None:
    # Where versions without the setting have it.
    await runner.start(workers=1, KEEPALIVE_DIR=str(runner.folder / "temp" / "keepalive"))
    await runner.platform.create_bot("b1", {}, key="bot.zip")
    before = await eventually(lambda: runner.running_with("b1", "up"))
    assert before is not None

    async with overlap_watch(docker_engine, await runner.scope()) as watch:
        await runner.processes["w1"].process.kill()
        killed_at = time.monotonic()
        await runner.start_process("worker", "w1").wait_ready()
        # Without the new worker the bot would have ended by then.
        await eventually(lambda: time.monotonic() - killed_at > 1.1 * LEASE_SECONDS)
        await eventually(lambda: runner.in_state("b1", "running"))

        after = await runner.running_with("b1", "up")
        assert after is not None
        assert after["Id"] == before["Id"]
        assert watch.overlaps == []
    # What is started from now on watches the new folder, and the former one is not needed any more.
    await runner.platform.update_bot("b1", {"changed": True}, key="bot.zip")

    async def another() -> bool:
        container = await runner.running_with("b1", "up")
        return container is not None and container["Id"] != before["Id"]

    await eventually(another)
    [container] = await runner.containers("b1")
    assert container["Labels"]["runtime.keepalive"].startswith(str(runner.folder / "keepalive"))
