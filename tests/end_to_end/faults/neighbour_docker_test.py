"""A worker is killed and the next one ends: the last one of the engine continues what runs, and no container notices.

Each entity has one container, which lives through both.
"""

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import docker

from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, BOT_SCHEDULER
from tests.support.eventually import eventually
from tests.support.observers.overlaps import overlap_watch
from tests.support.rigs.backtests import listening
from tests.support.rigs.deployment import Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

CODE = """
import os, time
def main(id, config):
    number = 0
    while not os.path.exists("/tmp/end"):
        print("tick", number, time.monotonic(), flush=True)
        number += 1
        time.sleep(0.05)
    return {"ticks": number}
"""
LONGER_LEASE = {"LEASE_SECONDS": "8"}
"""For a busy machine."""
SECONDS = 120
GAP_SECONDS = 2.0
"""No container is touched: this is what a busy machine makes of a sleep of 50 ms."""
TICKS_AFTERWARDS = 20


async def test_bots_tick_on_when_their_worker_is_killed_and_when_the_next_one_ends(
    tmp_path: Path, docker_engine: Engine
) -> None:
    bots = ("b1", "b2", "b3")
    settings = {**LONGER_LEASE, "MAX_BOTS_PER_PARTITION": "2"}
    async with deployment(tmp_path, docker_engine, service=BOT_RUNNER, settings=settings) as made:
        await made.start(workers=3)
        made.platform.upload("bot.zip", zipped({"main.py": CODE}))
        async with overlap_watch(docker_engine, await made.scope()) as watch:
            for bot_id in bots:
                await made.platform.create_bot(bot_id, {}, key="bot.zip")

            last = await lose_two_workers(made, bots)

            await eventually(partial(assigned, made, last, bots), within_seconds=SECONDS)
            seen = {bot_id: await ticks(made, bot_id) for bot_id in bots}
            for bot_id in bots:
                await made.platform.delete_bot(bot_id)
            for bot_id in bots:
                await eventually(partial(logged, made, bot_id, seen[bot_id]), within_seconds=SECONDS)
        assert watch.overlaps == []
        assert {bot_id: watch.starts[bot_id] for bot_id in bots} == dict.fromkeys(bots, 1)


async def test_backtest_that_loses_two_workers_runs_once_and_has_one_result(
    tmp_path: Path, docker_engine: Engine
) -> None:
    async with (
        deployment(tmp_path, docker_engine, service=BACKTEST_RUNNER, settings=LONGER_LEASE) as made,
        listening(made) as found,
    ):
        await made.start(workers=3)
        found.upload("slow.zip", CODE)
        async with overlap_watch(docker_engine, await made.scope()) as watch:
            await found.create("t1", key="slow.zip")

            last = await lose_two_workers(made, ["t1"])

            await tell_to_end(made, "t1")
            result = await found.done("t1", within_seconds=SECONDS)
        assert (result["success"], len(found.events("t1"))) == (True, 1)
        lines = [line.split()[1] for line in found.logs("t1").splitlines() if line.startswith("tick ")]
        assert lines == [str(number) for number in range(found.analysis("t1")["ticks"])]
        [run] = await runs(made, "t1")
        assert (run["reason"], run["worker_id"]) == ("finished", last)
        assert (watch.overlaps, watch.starts["t1"]) == ([], 1)


async def test_firing_that_loses_two_workers_is_one_run(tmp_path: Path, docker_engine: Engine) -> None:
    async with deployment(tmp_path, docker_engine, service=BOT_SCHEDULER, settings=LONGER_LEASE) as made:
        await made.start(workers=3)
        made.platform.upload("slow.zip", zipped({"main.py": CODE}))
        async with overlap_watch(docker_engine, await made.scope()) as watch:
            payload = made.platform.payload("s1", {"schedule": "0 0 1 1 *"}, key="slow.zip")
            await made.platform.publish("the0.bot-schedule.created", payload)
            await eventually(partial(made.document, "s1"), within_seconds=SECONDS)
            await trigger(made, "s1")

            last = await lose_two_workers(made, ["s1"])

            seen = await ticks(made, "s1")
            await tell_to_end(made, "s1")
            [run] = await eventually(partial(runs, made, "s1"), within_seconds=SECONDS)
            await eventually(partial(logged, made, "s1", seen), within_seconds=SECONDS)
        assert (run["reason"], run["worker_id"]) == ("finished", last)
        assert (watch.overlaps, watch.starts["s1"]) == ([], 1)


async def lose_two_workers(made: Deployment, entities: Sequence[str]) -> str:
    """Kill the worker of the first entity, then end the next one; return the last worker, with which all go on."""
    await eventually(partial(all_ticked, made, dict.fromkeys(entities, 0)), within_seconds=SECONDS)
    containers = {one: await container_of(made, one) for one in entities}
    workers = {"w1", "w2", "w3"}
    for number in range(2):
        gone = await eventually(partial(owner, made, entities[0]), within_seconds=SECONDS)
        workers.discard(gone)

        if number == 0:
            await made.processes[gone].process.kill()
        else:
            await made.processes[gone].process.stop(grace_seconds=60)

        await eventually(partial(all_owned_by, made, entities, workers), within_seconds=SECONDS)
        reached = {one: len(await ticks(made, one)) for one in entities}
        await eventually(partial(all_ticked, made, reached), within_seconds=SECONDS)
    assert {one: await container_of(made, one) for one in entities} == containers
    for one in entities:
        times = await ticks(made, one)
        assert max(later - earlier for earlier, later in itertools.pairwise(times)) <= GAP_SECONDS
    [last] = workers
    return last


async def container_of(made: Deployment, entity_id: str) -> str:
    [container] = await made.containers(entity_id)
    return str(container["Id"])


async def ticks(made: Deployment, entity_id: str) -> list[float]:
    """The times of all ticks of the running container; none without one."""
    found = await made.containers(entity_id)
    lines = made.output(found[0]).splitlines() if found else []
    return [float(line.split()[2]) for line in lines if line.startswith("tick ")]


async def all_ticked(made: Deployment, reached: Mapping[str, int]) -> bool:
    return all([len(await ticks(made, one)) >= number + TICKS_AFTERWARDS for one, number in reached.items()])


async def all_owned_by(made: Deployment, entities: Sequence[str], workers: set[str]) -> bool:
    return {await owner(made, one) for one in entities} <= workers


async def owner(made: Deployment, entity_id: str) -> str:
    """The worker that has the lease of the entity's segment; empty while none has."""
    document = await made.document(entity_id)
    assert document is not None
    partitions = made.mongo[made.service.database]["partitions"]
    partition = await partitions.find_one({"_id": document["segment_id"]})
    return str((partition or {}).get("lease", {}).get("worker_id") or "")


async def assigned(made: Deployment, worker_id: str, entities: Sequence[str]) -> bool:
    """Whether the master assigns the entities' segments to this worker, which owns them."""
    documents = [await made.document(one) for one in entities]
    segments = sorted({document["segment_id"] for document in documents if document is not None})
    return (await made.status(worker_id)).get("assigned") == segments


async def runs(made: Deployment, entity_id: str) -> list[dict[str, Any]]:
    """The runs that have ended."""
    found = made.mongo[made.service.database]["runs"].find({"entity_id": entity_id, "open": False})
    return await found.to_list(100)


async def logged(made: Deployment, entity_id: str, seen: list[float]) -> bool:
    """Whether the stored output has each tick once, up to those that were *seen*."""
    storage = made.platform.storage
    found = storage.list_objects("logs", prefix=f"logs/{entity_id}/", recursive=True)
    names = sorted(item.object_name or "" for item in found)
    stored = b"".join(storage.get_object("logs", name).data for name in names).decode()
    # The last line may be stored in part.
    numbers = [int(line.split()[1]) for line in stored.split("\n")[:-1] if line.startswith("tick ")]
    assert numbers == list(range(len(numbers)))
    return len(numbers) >= len(seen)


async def tell_to_end(made: Deployment, entity_id: str) -> None:
    """Let the container's code return."""

    def touch(container_id: str) -> int | None:
        client = docker.DockerClient(base_url=made.engine.url, timeout=60)
        try:
            return client.containers.get(container_id).exec_run(["touch", "/tmp/end"]).exit_code
        finally:
            client.close()

    assert await asyncio.to_thread(touch, await container_of(made, entity_id)) == 0


async def trigger(made: Deployment, schedule_id: str) -> None:
    """As `runtime schedule trigger` does."""
    wish = {"id": "wish", "requested_at": time.time()}
    schedules = made.mongo[made.service.database][made.service.collection]
    document = await schedules.find_one_and_update({"id": schedule_id}, {"$set": {"scheduler.trigger": wish}})
    assert document is not None
    await made.platform.client.publish(f"runtime.bot-scheduler.segment.{document['segment_id']}", b"")
