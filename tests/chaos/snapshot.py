"""What MongoDB, the records and the engines say at one time, read directly and not through a proxy."""

import asyncio
from collections import defaultdict
from typing import Any

import docker

from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, BOT_SCHEDULER
from tests.chaos.timeline import RunView, State
from tests.chaos.workload import GUESTS, WATCHED
from tests.chaos.world import World


async def state_of(world: World) -> State:
    """Return the present state; raises errors of the servers."""
    client = await world.mongo.client()
    counted: dict[str, int] = {}
    present: dict[str, int] = defaultdict(int)
    documents = {}
    for service in (BOT_RUNNER, BACKTEST_RUNNER, BOT_SCHEDULER):
        database = client[service.database]
        async for partition in database["partitions"].find():
            counted[f"{service.name} {partition['_id']}"] = partition["bot_count"]
        async for document in database[service.collection].find():
            present[f"{service.name} {document['segment_id']}"] += 1
            if service is BOT_RUNNER:
                documents[document["id"]] = int(document["config"]["number"])
    runs = client[BOT_RUNNER.database]["runs"].find({"open": True})
    live: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for entity_id, container_id, _ in await containers(world):
        if entity_id in (*WATCHED, *GUESTS):
            live[entity_id] += (container_id,)
    books = client[BOT_RUNNER.database]["bot_metrics"].find()
    metrics = {
        str(book["_id"]): series["value"]
        async for book in books
        for series in book["series"]
        if series["name"] == "count"
    }
    return State(documents, dict(live), tuple([_view(run) async for run in runs]), counted, dict(present), metrics)


async def containers(world: World) -> list[tuple[str, str, str]]:
    """Return entity, id and engine of each container of an entity, running or not."""
    found = []
    for name, engine in world.engines.items():
        for summary in await asyncio.to_thread(_containers, engine.url):
            found.append((summary["Labels"]["runtime.id"], summary["Id"], name))
    return found


async def firings(world: World) -> tuple[RunView, ...]:
    """Return the runs of all firings."""
    client = await world.mongo.client()
    runs = client[BOT_SCHEDULER.database]["runs"].find({"scheduled_at": {"$ne": None}})
    return tuple([_view(run) async for run in runs])


async def unfinished_backtests(world: World) -> int:
    """Return the number of backtests without an outcome."""
    client = await world.mongo.client()
    return int(await client[BACKTEST_RUNNER.database][BACKTEST_RUNNER.collection].count_documents({}))


async def notified(world: World) -> tuple[str, ...]:
    """Return the backtests of all notifications that were ever queued."""
    client = await world.mongo.client()
    queue = client[BACKTEST_RUNNER.database]["notifications"]
    return tuple([one["entity_id"] async for one in queue.find({"event": "backtest.done"})])


def _view(run: dict[str, Any]) -> RunView:
    at = run.get("scheduled_at")
    firing = f"{at.isoformat()}, attempt {run.get('attempt') or 1}" if at is not None else ""
    return RunView(str(run["_id"]), run["entity_id"], run.get("container_id") or "", bool(run["open"]), firing)


def _containers(url: str) -> list[dict[str, Any]]:
    client = docker.APIClient(base_url=url, timeout=30)
    try:
        return list(client.containers(all=True, filters={"label": "runtime.id"}))
    finally:
        client.close()
