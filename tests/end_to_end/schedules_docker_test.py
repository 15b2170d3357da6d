"""Schedules as their owner sees them: announced, run on time, changed, refused, and carried on by another worker."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from libs.core.process.service import BOT_SCHEDULER
from tests.support.eventually import eventually
from tests.support.rigs.deployment import Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

QUICK = """
import os

def main(id, config):
    print("ran", id, config["symbol"], os.environ["BOT_ID"], flush=True)
    return {"symbol": config["symbol"]}
"""
LONG = """
import time

def main(id, config):
    print("began", flush=True)
    while True:
        time.sleep(0.1)
"""
READING = """
def main(id, config):
    print("read", open("/data/prices.csv").read(), flush=True)
"""
EVERY_SECOND = "* * * * * *"
NEVER_SOON = "0 0 1 1 *"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scheduler(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[Deployment]:
    """A master and one worker, shared by the tests of this file."""
    # On a machine that is busy a process takes longer to come back than a lease lives by default.
    settings = {"MAX_BOT_SCHEDULES_PER_PARTITION": "100", "BOT_STOP_SECONDS": "2", "LEASE_SECONDS": "90"}
    folder = tmp_path_factory.mktemp("schedules")
    async with deployment(folder, docker_engine, service=BOT_SCHEDULER, settings=settings) as made:
        await made.start(workers=1)
        made.platform.upload("quick.zip", zipped({"main.py": QUICK}))
        made.platform.upload("long.zip", zipped({"main.py": LONG}))
        yield made


async def announce(made: Deployment, what: str, schedule_id: str, key: str, **config: Any) -> None:
    payload = made.platform.payload(schedule_id, config, key=key)
    await made.platform.publish(f"the0.bot-schedule.{what}", payload)


async def history(made: Deployment, schedule_id: str) -> list[dict[str, Any]]:
    """Its runs that have ended, the first one first."""
    runs = made.mongo[BOT_SCHEDULER.database]["runs"].find({"entity_id": schedule_id, "open": False})
    return await runs.sort("started_at", 1).to_list(100)


async def test_a_schedule_runs_at_its_times_with_its_config(scheduler: Deployment) -> None:
    await announce(scheduler, "created", "quick", "quick.zip", schedule="*/2 * * * * *", symbol="BTC")

    async def ran_twice() -> list[dict[str, Any]]:
        runs = [run for run in await history(scheduler, "quick") if run["reason"] == "finished"]
        return runs if len(runs) >= 2 else []

    runs = await eventually(ran_twice)
    assert all(run["scheduled_at"].second % 2 == 0 for run in runs)
    assert len({run["scheduled_at"] for run in runs}) == len(runs)
    assert "ran quick BTC quick" in runs[0]["last_lines"]
    await scheduler.platform.publish("the0.bot-schedule.deleted", {"id": "quick", "config": {}})
    assert await eventually(lambda: gone(scheduler, "quick"))


async def test_schedule_reads_its_data_set_and_says_which_one_is_missing(scheduler: Deployment, tmp_path: Path) -> None:
    terminal = scheduler.terminal()
    scheduler.platform.upload("reading.zip", zipped({"main.py": READING}))
    (tmp_path / "prices.csv").write_text("1,2,3")
    await announce(scheduler, "created", "reading", "reading.zip", schedule=EVERY_SECOND, dataSets=["prices.csv"])

    without = await eventually(lambda: ended_with(scheduler, "reading", "rejected"))
    await terminal.succeed("bot", "data", "put", "prices.csv", str(tmp_path / "prices.csv"))
    reading = await eventually(lambda: ended_with(scheduler, "reading", "finished"))

    assert "runtime bot data put prices.csv FILE" in without["message"]
    assert "read 1,2,3" in reading["last_lines"]
    await scheduler.platform.publish("the0.bot-schedule.deleted", {"id": "reading", "config": {}})
    assert await eventually(lambda: gone(scheduler, "reading"))


async def ended_with(made: Deployment, schedule_id: str, reason: str) -> dict[str, Any] | None:
    return next((run for run in await history(made, schedule_id) if run["reason"] == reason), None)


async def test_schedule_answers_a_query_in_a_container_of_its_own(scheduler: Deployment) -> None:
    query = "import json, os\nanswer = {'status': 'ok', 'data': os.environ['QUERY_PATH']}\n"
    query += "with open('/query/result.json', 'w') as file:\n    json.dump(answer, file)\n"
    scheduler.platform.upload("asked.zip", zipped({"main.py": QUICK, "query.py": query}))
    payload = scheduler.platform.payload("asked", {"schedule": NEVER_SOON}, key="asked.zip")
    payload["custom"]["config"]["entrypoints"]["query"] = "query.py"
    await scheduler.platform.publish("the0.bot-schedule.created", payload)
    await eventually(lambda: scheduler.document("asked"))

    answer = await scheduler.terminal().succeed("schedule", "query", "asked", "/next")

    assert answer.json() == {"status": "ok", "data": "/next"}


async def test_a_bad_expression_is_a_dead_letter_and_the_old_schedule_stays(scheduler: Deployment) -> None:
    await announce(scheduler, "created", "kept", "quick.zip", schedule=NEVER_SOON, symbol="BTC")
    before = await eventually(lambda: scheduler.document("kept"))

    await announce(scheduler, "updated", "kept", "quick.zip", schedule="0 25 * * *", symbol="ETH")

    letter = await eventually(lambda: dead_letter(scheduler, "kept"))
    assert "hour 25 is out of range" in letter
    after = await scheduler.document("kept")
    assert before is not None
    assert after is not None
    assert (after["config"], after["next_execution_time"]) == (before["config"], before["next_execution_time"])


async def test_a_run_over_its_time_is_stopped_and_its_output_is_kept(scheduler: Deployment) -> None:
    await announce(scheduler, "created", "endless", "long.zip", schedule=NEVER_SOON, timeout=1.5)
    await eventually(lambda: scheduler.document("endless"))
    await trigger(scheduler, "endless")

    [run] = await eventually(lambda: history(scheduler, "endless"))

    assert (run["reason"], run["cause"]) == ("timeout", "manual")
    assert "began" in run["last_lines"]
    await eventually(lambda: logged(scheduler, "endless", b"began"))


async def test_a_run_that_goes_on_is_seen_through_by_the_worker_that_comes_after_a_kill(scheduler: Deployment) -> None:
    await announce(scheduler, "created", "carried", "long.zip", schedule=NEVER_SOON)
    await eventually(lambda: scheduler.document("carried"))
    await trigger(scheduler, "carried")
    container = await eventually(lambda: scheduler.running_with("carried", "began"))

    await scheduler.processes["w1"].process.kill()
    again = scheduler.start_process("worker", "w1")
    await again.wait_ready()

    # The same name on the same host: the lease is taken over at once, and with it the container.
    assert await eventually(lambda: epoch_is_new(scheduler, "carried"))
    assert [c["Id"] for c in await scheduler.containers("carried")] == [container["Id"]]
    await scheduler.platform.publish("the0.bot-schedule.deleted", {"id": "carried", "config": {}})
    [run] = await eventually(lambda: history(scheduler, "carried"))
    assert run["reason"] == "deleted"
    assert await scheduler.containers("carried") == []


async def trigger(made: Deployment, schedule_id: str) -> None:
    """As `runtime schedule trigger` does."""
    wish = {"id": "wish", "requested_at": time.time()}
    schedules = made.mongo[BOT_SCHEDULER.database][BOT_SCHEDULER.collection]
    document = await schedules.find_one_and_update({"id": schedule_id}, {"$set": {"scheduler.trigger": wish}})
    assert document is not None
    await made.platform.client.publish(f"runtime.bot-scheduler.segment.{document['segment_id']}", b"")


async def gone(made: Deployment, schedule_id: str) -> bool:
    return await made.document(schedule_id) is None and await made.containers(schedule_id) == []


async def dead_letter(made: Deployment, schedule_id: str) -> str:
    """The reason with which an event of this schedule was given up."""
    subscription = await made.platform.client.jetstream().subscribe("the0.dlq.bot-scheduler", ordered_consumer=True)
    try:
        message = await subscription.next_msg(timeout=1)
        while json.loads(message.data)["id"] != schedule_id:
            message = await subscription.next_msg(timeout=1)
        return " ".join(str(value) for value in (message.headers or {}).values())
    finally:
        await subscription.unsubscribe()


async def logged(made: Deployment, schedule_id: str, text: bytes) -> bool:
    found = made.platform.storage.list_objects("logs", prefix=f"logs/{schedule_id}/", recursive=True)
    return any(text in made.platform.storage.get_object("logs", item.object_name or "").data for item in found)


async def epoch_is_new(made: Deployment, schedule_id: str) -> bool:
    """Whether the run has been taken over by a later owner than the one that began it."""
    document = await made.document(schedule_id)
    firing = (document or {}).get("scheduler", {}).get("firing") or {}
    [container] = await made.containers(schedule_id)
    return int(firing.get("epoch", 0)) > int(container["Labels"]["runtime.epoch"])
