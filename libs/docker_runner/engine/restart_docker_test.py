"""A real engine that is restarted and killed under bots whose events and output are followed."""

import asyncio
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.containers.container import ContainerState, EndReason
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import BotContainers, bot_containers, watched
from tests.support.rigs.bot_logs import engines_own, log_store, pipeline, stored
from tests.support.servers.own_engine import OwnEngine
from tools.stack.s3 import S3Server

COUNTER = """
import time
def main(id, config):
    number = 0
    while True:
        print(number, flush=True)
        number += 1
        time.sleep(0.02)
"""
SHORT = """
import os, time
def main(id, config):
    print("up", flush=True)
    while not os.path.exists("/bot/end"):
        time.sleep(0.02)
    return "done"
"""
FINISH_SECONDS = 120.0


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, private_engine: OwnEngine) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, private_engine.url) as bots:
        yield bots


@pytest_asyncio.fixture(loop_scope="session")
async def store(s3_server: S3Server, bucket_prefix: str) -> AsyncIterator[ObjectStore]:
    async with log_store(s3_server, bucket_prefix) as store:
        yield store


def resyncs(events: list[ContainerEvent]) -> int:
    return sum(event.kind is EventKind.RESYNC for event in events)


def numbers(output: bytes) -> list[int]:
    """The output of counters, up to the supervisor's possible note at their end."""
    return [int(line) for line in output.splitlines() if line.isdigit()]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restarted_engine_has_ended_its_bots_which_is_learned_and_they_run_again(
    bots: BotContainers, store: ObjectStore, private_engine: OwnEngine, how: signal.Signals
) -> None:
    executable = bots.executable(COUNTER)
    async with watched(bots) as events, pipeline(bots, store) as logs:
        first = await bots.runner.start(executable)
        logs.following.follow(first)
        await eventually(lambda: stored(store, "b1"))

        await private_engine.stop(how)
        await private_engine.start()

        await eventually(lambda: resyncs(events) >= 2)
        await eventually(lambda: states(bots, {"b1": ContainerState.EXITED}))
        assert await logs.following.finish(first, FINISH_SECONDS)
        written = await engines_own(bots, first)
        assert (await bots.runner.remove(first)).reason is EndReason.KILLED

        second = await bots.runner.start(executable)
        logs.following.follow(second)
        await eventually(lambda: started_again(store))
        await bots.runner.stop(second, 0)
        assert await logs.following.finish(second, FINISH_SECONDS)
        written += await engines_own(bots, second)
        await eventually(lambda: is_stored(store, "b1", written))
        await eventually(lambda: second.container_id in {event.container_id for event in events})
    first_run, second_run = split(numbers(written))
    # A killed engine loses buffered output, of which there is no other copy.
    assert first_run == (sorted(set(first_run)) if how is signal.SIGKILL else list(range(len(first_run))))
    assert second_run == list(range(len(second_run)))
    assert next(event.kind for event in events if event.container_id == second.container_id) is EventKind.STARTED


async def states(bots: BotContainers, expected: dict[str, ContainerState]) -> bool:
    return {one.id: one.state for one in await bots.list()} == expected


async def is_stored(store: ObjectStore, entity_id: str, output: bytes) -> bool:
    return await stored(store, entity_id) == output


async def started_again(store: ObjectStore) -> bool:
    return numbers(await stored(store, "b1")).count(0) == 2


def split(counted: list[int]) -> tuple[list[int], list[int]]:
    """The numbers of the first counter and those of the second."""
    again = counted.index(0, 1)
    return counted[:again], counted[again:]


async def test_bots_outlive_an_engine_that_keeps_them_and_nothing_of_them_is_missed(
    bots: BotContainers, store: ObjectStore, private_engine: OwnEngine
) -> None:
    await private_engine.keep_containers(True)
    try:
        async with watched(bots) as events, pipeline(bots, store) as logs:
            counter = await bots.runner.start(bots.executable(COUNTER))
            shortly = bots.executable(SHORT, "short")
            short = await bots.runner.start(shortly)
            run = asyncio.create_task(bots.outcome(bots.executable(SHORT, "run", run_id="r1"), 240.0))
            for container in (counter, short):
                logs.following.follow(container)
            await eventually(lambda: stored(store, "b1"))
            await eventually(lambda: stored(store, "short"))
            begun = await eventually(lambda: [e.container_id for e in events if e.id == "run"])
            both = [await private_engine.process(container_id) for container_id in (short.container_id, begun[0])]

            await private_engine.stop()
            # The two have the same code.
            (bots.code.directory / shortly.code.key / "end").touch()
            await eventually(lambda: not any(process.exists() for process in both))
            await private_engine.start()

            assert (await run).result == "done"
            await eventually(lambda: resyncs(events) >= 2)
            before = len(numbers(await stored(store, "b1")))
            await eventually(lambda: more_than(store, before + 20))
            await eventually(lambda: states(bots, {"b1": ContainerState.RUNNING, "short": ContainerState.EXITED}))

            assert (await bots.runner.stop(short)).reason is EndReason.FINISHED
            assert (await bots.runner.stop(counter, 0)).reason is EndReason.STOPPED
            for container in (counter, short):
                assert await logs.following.finish(container, FINISH_SECONDS)
            # What a bot prints while the engine is away is the engine's to keep, and of one that has ended it does not.
            for container in (counter, short):
                output = await engines_own(bots, container)
                await eventually(partial(is_stored, store, container.id, output))
            counted = numbers(await stored(store, "b1"))
            assert counted == list(range(len(counted)))
    finally:
        await private_engine.keep_containers(False)


async def more_than(store: ObjectStore, count: int) -> bool:
    return len(numbers(await stored(store, "b1"))) > count
