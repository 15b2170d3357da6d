"""What a bot can use up: each limit is shown to bite, by a bot that ignores it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from libs.core.room import MIB
from libs.docker_runner.containers.container import EndReason
from libs.docker_runner.executable import Limits, Network
from tests.support.faults.hostile_bot import TIGHT
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tools.engine.ensure import Engine


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    # Nothing here has to do with networks, and without one a start is quicker.
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.NONE) as bots:
        yield bots


# --- the disk


def test_a_full_tmp_is_an_error_and_no_death(probe: dict[str, Any]) -> None:
    assert probe["tmp"]["error"] == "No space left on device"
    assert probe["tmp"]["written"] <= 16 * MIB
    assert probe["tmp_again"] == "1"


def test_shared_memory_is_bounded(probe: dict[str, Any]) -> None:
    assert probe["shm"]["error"] == "No space left on device"
    assert probe["shm"]["written"] <= 16 * MIB


def test_the_number_of_files_is_bounded(probe: dict[str, Any]) -> None:
    assert probe["inodes"]["error"] == "No space left on device"
    assert probe["inodes"]["made"] < 5000


# --- the rest


def test_a_fork_bomb_is_bounded(probe: dict[str, Any]) -> None:
    assert probe["forks"]["error"] == "Resource temporarily unavailable"
    assert probe["forks"]["made"] < 48


def test_open_files_are_bounded(probe: dict[str, Any]) -> None:
    assert probe["open_files"]["error"] == "Too many open files"
    assert probe["open_files"]["open"] < 128


def test_no_core_is_dumped(probe: dict[str, Any]) -> None:
    assert probe["core"] == [0, 0]


async def test_a_real_fork_bomb_ends_with_its_run(bots: BotContainers) -> None:
    source = "import os\ndef main(id, config):\n while True:\n  try: os.fork()\n  except OSError: pass"
    outcome, _ = await bots.run(source, limits=TIGHT, timeout_seconds=3.0)
    assert outcome.ended.reason in (EndReason.TIMEOUT, EndReason.OOM)
    assert await bots.list() == []


async def test_a_memory_hog_is_killed_and_gets_no_swap(bots: BotContainers) -> None:
    source = "def main(id, config):\n hog = []\n while True: hog.append(bytearray(1 << 20))"
    outcome, _ = await bots.run(source, limits=TIGHT)
    assert outcome.ended.reason is EndReason.OOM
    assert (outcome.ended.peak_memory_bytes or 0) <= TIGHT.memory_bytes


async def test_a_node_memory_hog_is_killed(bots: BotContainers) -> None:
    source = "exports.main = () => { const hog = []; while (true) hog.push(Buffer.alloc(1 << 20, 1)) }"
    outcome, _ = await bots.run(source, runtime="nodejs20", limits=TIGHT)
    assert outcome.ended.reason is EndReason.OOM


async def test_a_bot_gets_no_more_cpu_than_its_quota(bots: BotContainers) -> None:
    source = "import time\ndef main(id, config):\n end = time.time() + 2\n while time.time() < end: pass"
    outcome, _ = await bots.run(source, limits=Limits(cpus=0.25))
    assert outcome.ended.cpu_seconds is not None
    assert outcome.ended.duration_seconds is not None
    assert outcome.ended.cpu_seconds < 0.25 * outcome.ended.duration_seconds + 0.4


async def test_a_log_flooder_is_slowed_down(bots: BotContainers) -> None:
    rate = 256 * 1024
    limits = Limits(output_bytes_per_second=rate, output_burst_bytes=rate)
    # So many that what fits into a pipe counts for little: when the bot has ended, that comes out at once.
    outcome, output = await bots.run("def main(i, c):\n for _ in range(1600): print('x' * 999)", limits=limits)
    assert output == ("x" * 999 + "\n") * 1600 + "null\n"
    assert outcome.ended.duration_seconds is not None
    assert outcome.ended.duration_seconds > 0.9 * (len(output) - rate) / rate


async def test_what_a_bot_leaves_behind_ends_with_it(bots: BotContainers) -> None:
    source = """
import os, time
def main(id, config):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                print("still here", flush=True)
                time.sleep(0.1)
        os._exit(0)
    time.sleep(0.5)
    return 1
"""
    outcome, output = await bots.run(source)
    assert outcome.succeeded
    assert output.splitlines()[-1] == "1"
