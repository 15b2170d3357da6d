"""The log pipeline on real containers and a real S3 server."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from libs.core.room import MIB
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.executable import Limits
from libs.docker_runner.logs.history import LogHistory
from libs.docker_runner.logs.reader import LogReader
from tests.support.eventually import eventually
from tests.support.loop_time import busiest_seconds
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tests.support.rigs.bot_logs import engines_own, log_store, pipeline, stored
from tools.engine.ensure import Engine
from tools.stack.s3 import S3Server

UNLIMITED = Limits(output_bytes_per_second=1024 * MIB, output_burst_bytes=1024 * MIB)

CHATTERBOX = """
import os, sys, time
def main(id, config):
    for number in range(1500):
        os.write(1, b"out %d\\n" % number)
        os.write(2, b"err %d\\n" % number)
        if number % 100 == 0:
            os.write(1, b"x" * 1048576 + b"\\n")
            os.write(1, bytes(range(256)))
            time.sleep(0.05)
    return "the end"
"""
FLOOD = """
import sys, time
def main(id, config):
    for _ in range(4):
        sys.stdout.write(("y" * 79 + "\\n") * 13107)
        sys.stdout.flush()
    while True:
        time.sleep(1)
"""
CLOCK = """
import time
def main(id, config):
    while True:
        print(repr(time.time()), flush=True)
        time.sleep(0.2)
"""


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, docker_engine.url) as bots:
        yield bots


@pytest_asyncio.fixture(loop_scope="session")
async def store(s3_server: S3Server, bucket_prefix: str) -> AsyncIterator[ObjectStore]:
    async with log_store(s3_server, bucket_prefix) as store:
        yield store


async def test_all_that_a_container_wrote_is_stored_once_through_workers_that_are_killed(
    bots: BotContainers, store: ObjectStore
) -> None:
    container = await bots.runner.start(bots.executable(CHATTERBOX, limits=UNLIMITED))
    for _ in range(4):
        async with pipeline(bots, store, interval_seconds=0.05) as killed:
            killed.following.follow(container)
            await asyncio.sleep(0.25)

    async def ended() -> bool:
        found = await bots.runner.inspect(container)
        return found is not None and found.exit_code is not None

    await eventually(ended)
    async with pipeline(bots, store) as last:
        assert await last.following.finish(container, 120)
        logged = await engines_own(bots, container)

        async def all_stored() -> bool:
            return await stored(store, "b1") == logged

        await eventually(all_stored, within_seconds=120, every_seconds=0.3)
    assert len(logged) > 15 * MIB
    assert logged.count(b"\nerr ") + logged.count(bytes([255]) + b"err ") >= 1480
    await bots.runner.remove(container)


async def test_output_is_read_along_within_a_second(bots: BotContainers, store: ObjectStore) -> None:
    container = await bots.runner.start(bots.executable(CLOCK))
    delays = []
    async with pipeline(bots, store, interval_seconds=1.0) as worker:
        worker.following.follow(container)
        await eventually(lambda: worker.uploads.bot("b1"))
        reader = LogReader(worker.uploads, LogHistory(store, store.settings.logs_bucket))
        async with contextlib.aclosing(reader.output("b1", tail_lines=0, follow=True)) as reading:
            async with asyncio.timeout(120):
                async for piece in reading:
                    if piece:
                        # That of its oldest line.
                        delays.append(time.time() - float(piece.splitlines()[0]))
                    if len(delays) == 15:
                        break
    # The median, as a busy machine has its moments.
    assert statistics.median(delays) < 1.0
    await bots.runner.remove(container)


async def test_a_flood_leaves_the_loop_to_others(bots: BotContainers, store: ObjectStore) -> None:
    container = await bots.runner.start(bots.executable(FLOOD, limits=UNLIMITED))
    async with pipeline(bots, store) as worker:
        worker.following.follow(container)

        async def all_stored() -> bool:
            return len(await stored(store, "b1")) == 4 * 13107 * 80

        waiting = asyncio.create_task(eventually(all_stored, within_seconds=120, every_seconds=0.3))
        longest = await busiest_seconds(waiting)
        await waiting
    # Thrice the design's limit, since a shared processor counts more than the work took.
    assert longest < 0.3, f"the loop was busy for {longest:.3f} s at a stretch"
    await bots.runner.remove(container)
