"""Bots live through an upgrade that puts their keepalive files elsewhere."""

import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.observers.overlaps import overlap_watch
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
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


# Of a busy machine; a bot that had to start again would be another container.
LONGEST_GAP_SECONDS = 5.0
TICKING = """
import itertools
import time

def main(id, config):
    while True:
        print(time.time(), flush=True)
        time.sleep(0.1)
"""


async def test_a_segment_whose_keepalive_cannot_be_written_moves_and_the_others_of_its_worker_tick_on(
    tmp_path: Path, docker_engine: Engine
) -> None:
    settings = {"MAX_BOTS_PER_PARTITION": "1", "BOT_STOP_SECONDS": "1"}
    async with deployment(tmp_path, docker_engine, settings=settings) as runner:
        runner.platform.upload("bot.zip", zipped({"main.py": TICKING}))
        await runner.start(workers=1)
        for bot_id in ("b1", "b2"):
            await runner.platform.create_bot(bot_id, {}, key="bot.zip")
        first, second = await ticking(runner, "b1"), await ticking(runner, "b2")

        async with overlap_watch(docker_engine, await runner.scope()) as watch:
            spoil(Path(first["Labels"]["runtime.keepalive"]))
            # Another worker has its keepalives elsewhere.
            await runner.start_process("worker", "w2", KEEPALIVE_DIR=str(tmp_path / "other")).wait_ready()

            async def moved() -> bool:
                container = await running(runner, "b1")
                return container is not None and container["Labels"]["runtime.worker"] == "w2"

            await eventually(moved)
            assert watch.overlaps == []
        after = await running(runner, "b2")
        assert after is not None
        assert after["Id"] == second["Id"]
        assert longest_gap_seconds(runner.output(after)) < LONGEST_GAP_SECONDS


async def running(runner: Deployment, bot_id: str) -> dict[str, Any] | None:
    """The bot's container, once it ticks."""
    return await runner.running_with(bot_id, ".")


async def ticking(runner: Deployment, bot_id: str) -> dict[str, Any]:
    container: dict[str, Any] | None = await eventually(lambda: running(runner, bot_id))
    assert container is not None
    return container


def spoil(folder: Path) -> None:
    """Prevent all further writes to the folder; containers keep their mounts."""
    folder.rename(folder.with_name("taken"))
    folder.write_text("no folder")


def longest_gap_seconds(output: str) -> float:
    ticks = [float(line) for line in output.splitlines()]
    return max(later - earlier for earlier, later in itertools.pairwise(ticks))
