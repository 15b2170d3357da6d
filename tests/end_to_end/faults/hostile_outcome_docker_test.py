"""Brackets where the init of a container leaves its notes end neither the worker nor the bots beside it.

No bot can write there; what is read is bounded all the same.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest_asyncio

from libs.core.process.service import BOT_RUNNER
from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

BOTS = 10
TICKER = (
    "import time\ndef main(id, config):\n    while True:\n        print('tick', flush=True)\n        time.sleep(0.1)\n"
)
HOSTILE = """
import time
def main(id, config):
    print("up", flush=True)
    time.sleep(config["seconds"])
"""


@pytest_asyncio.fixture(loop_scope="session")
async def runner(tmp_path: Path, docker_engine: Engine) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path, docker_engine, settings={**PATIENT, "MAX_BOTS_PER_PARTITION": "100"}) as made:
        made.platform.upload("ticker.zip", zipped({"main.py": TICKER}))
        made.platform.upload("hostile.zip", zipped({"main.py": HOSTILE}))
        yield made


async def test_worker_and_bots_live_on_beside_a_bot_that_writes_brackets_into_its_notes(runner: Deployment) -> None:
    await runner.start(workers=1)
    names = [f"b{number}" for number in range(BOTS)]
    for name in names:
        await runner.platform.create_bot(name, {}, key="ticker.zip")
    await eventually(lambda: all_run(runner, names))
    before = await ids(runner, names)
    process = runner.processes["w1"].process.pid
    # It ends by itself again and again, and is read when it runs and when it has ended.
    await runner.platform.create_bot("hostile", {"seconds": 15}, key="hostile.zip")
    container = await eventually(lambda: runner.running_with("hostile", "up"))
    sampled = await samples(runner)
    writing = asyncio.create_task(write_brackets(runner.folder, str(container["Names"][0]).lstrip("/")))

    async def has_been_read() -> bool:
        ended = await runner.mongo[BOT_RUNNER.database]["runs"].find_one({"entity_id": "hostile", "reason": "finished"})
        return ended is not None and await samples(runner) >= sampled + 2

    try:
        await eventually(has_been_read, within_seconds=180)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    assert runner.processes["w1"].process.running
    assert runner.processes["w1"].process.pid == process
    assert await ids(runner, names) == before


async def write_brackets(folder: Path, name: str) -> None:
    """Write them endlessly where the init of the container *name* leaves its notes, at every start."""
    while True:
        for outcome in await asyncio.to_thread(lambda: list(folder.glob(f"temp/runs/*/{name}/*/outcome"))):
            with suppress(FileNotFoundError):
                await asyncio.to_thread(outcome.write_bytes, b"[" * 4095)
        await asyncio.sleep(0.01)


async def all_run(runner: Deployment, names: list[str]) -> bool:
    """Whether each of the bots has printed something."""
    return all([await runner.running_with(name, "tick") is not None for name in names])


async def ids(runner: Deployment, names: list[str]) -> dict[str, list[str]]:
    """The engine's ids of the running containers of each bot."""
    return {name: [container["Id"] for container in await runner.containers(name)] for name in names}


async def samples(runner: Deployment) -> float:
    """How often the worker has looked at what its containers use."""
    url = f"http://127.0.0.1:{runner.processes['w1'].http_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        metrics = await answer.text()
    wanted = 'operation="sample"'
    lines = [x for x in metrics.splitlines() if x.startswith("runtime_operation_seconds_count{") and wanted in x]
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'system="containers"' in line)
