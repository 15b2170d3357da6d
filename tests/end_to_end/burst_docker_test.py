"""What a platform announces at once: every bot acts soon, on the workers that there are."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

BOT = """
import time

def main(id, config):
    print("acts at", time.time(), flush=True)
    while True:
        time.sleep(1)
"""
BOTS = 30
PROMISED_SECONDS = 8.0
QUIET_BARE_SECONDS = 5.0
"""What the bare SDK takes on a quiet machine with two processors; a busy one takes longer for both."""


@pytest_asyncio.fixture(loop_scope="session")
async def runner(tmp_path: Path, docker_engine: Engine) -> AsyncIterator[Deployment]:
    """A deployment of this test's own, with code uploaded and no process."""
    async with deployment(tmp_path, docker_engine, settings=PATIENT) as made:
        made.platform.upload("bot.zip", zipped({"main.py": BOT}))
        yield made


def bare_seconds(engine: Engine, scope: str) -> float:
    """How long the bare SDK takes to start as many containers of the same image with eight threads."""
    client = docker.DockerClient(base_url=engine.url, timeout=120, max_pool_size=16)

    def start(_: int) -> None:
        container = client.containers.create(
            "python:3.11-slim", ["python3", "-c", "print(1)"], labels={"runtime.scope": scope}
        )
        container.start()
        container.wait()

    begun = time.monotonic()
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(start, range(BOTS)))
        return time.monotonic() - begun
    finally:
        client.close()


async def acted_at(runner: Deployment, bot_id: str) -> float:
    """The Unix time at which the bot's code ran."""
    container = await eventually(lambda: runner.running_with(bot_id, "acts at"), 120.0)
    assert container is not None
    return float((await asyncio.to_thread(runner.output, container)).split("acts at")[1].split()[0])


@pytest.mark.parametrize("attempt", range(3))
async def test_thirty_first_bots_announced_at_once_all_act_within_seconds(
    runner: Deployment, docker_engine: Engine, scope: str, attempt: int
) -> None:
    await runner.start(workers=2)
    bots = [f"bot-{attempt}-{number}" for number in range(BOTS)]
    announced_at = time.time()

    await asyncio.gather(*(runner.platform.create_bot(bot_id, {}, key="bot.zip") for bot_id in bots))

    slowest = max([await acted_at(runner, bot_id) for bot_id in bots]) - announced_at
    partitions = await runner.mongo["bot_runner"]["partitions"].find({"bot_count": {"$gt": 0}}).to_list()
    assert sorted(partition["bot_count"] for partition in partitions) == [10, 10, 10]
    owners = Counter(str(partition["lease"]["worker_id"]) for partition in partitions)
    assert sorted(owners.values()) == [1, 2]
    bare = await asyncio.to_thread(bare_seconds, docker_engine, scope)
    print(f"slowest of {BOTS} after {slowest:.2f} s; the bare SDK {bare:.2f} s")
    assert slowest <= PROMISED_SECONDS * max(1.0, bare / QUIET_BARE_SECONDS)
