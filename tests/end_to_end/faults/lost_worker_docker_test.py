"""Without any worker, nothing is reported as running: by the command, the API, the status page or the metrics."""

import json
import time
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.support.eventually import eventually
from tests.support.rigs.deployment import Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.rigs.terminal import Terminal
from tools.dev.http import get_json
from tools.engine.ensure import Engine

BOT = (
    "import time\ndef main(id, config):\n    while True:\n        print('tick', flush=True)\n        time.sleep(0.2)\n"
)
SECONDS = 90
SECONDS_OF_A_WAIT_IN_VAIN = 60


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def runner(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[Deployment]:
    misspelt = {"MEMORY_LIMITMB": "64"}
    async with deployment(tmp_path_factory.mktemp("lost-worker"), docker_engine, settings=misspelt) as made:
        await made.start(workers=1)
        made.platform.upload("bot.zip", zipped({"main.py": BOT}))
        yield made


async def test_a_bot_is_unknown_everywhere_once_its_only_worker_was_killed(runner: Deployment) -> None:
    await runner.platform.create_bot("b1", {}, key="bot.zip")
    assert await eventually(lambda: in_api(runner, "running"), SECONDS)
    assert await eventually(lambda: in_metrics(runner, "w1", running=1), SECONDS)
    settings = {"MONGO_URI": runner.mongod.uri, "NATS_URL": runner.nats_server.url}
    terminal = Terminal(runner.folder / "home", settings)
    assert await shown_state(terminal) == "running"

    await runner.processes["w1"].process.kill()

    assert await eventually(lambda: in_api(runner, "unknown"), SECONDS)
    assert await shown_state(terminal) == "unknown"
    assert await entities_of_status(terminal) == {"unknown": 1}
    assert await eventually(lambda: in_metrics(runner, "master", unknown=1), SECONDS)
    assert "worker lost" in page(runner, "/entity?id=b1")
    assert ">running<" not in page(runner, "/entity?id=b1")

    begun = time.monotonic()
    removed = await terminal.succeed("bot", "rm", "b1")

    assert time.monotonic() - begun < SECONDS_OF_A_WAIT_IN_VAIN / 2
    assert "b1 is removed" in removed.out
    assert "on host" in removed.out
    assert "(worker w1)" in removed.out
    assert (await terminal.succeed("bot", "ls", "--output", "json")).json() == []


@pytest.mark.parametrize("process", ["master", "w1"])
async def test_a_process_warns_of_a_misspelt_setting_and_names_the_nearest_one(
    runner: Deployment, process: str
) -> None:
    lines = [json.loads(line) for line in (runner.folder / f"{process}.log").read_text().splitlines()]

    [warning] = [line for line in lines if line.get("variable") == "MEMORY_LIMITMB"]
    assert (warning["level"], warning["nearest"]) == ("warning", "MEMORY_LIMIT_MB")


async def in_api(runner: Deployment, state: str) -> bool:
    port = runner.processes["master"].http_port
    one = await get_json(port, "/api/v1/entities/b1")
    listed = await get_json(port, f"/api/v1/entities?state={state}")
    summary = await get_json(port, "/api/v1/summary")
    runs = await get_json(port, "/api/v1/runs?entity=b1")
    if one is None or listed is None or summary is None or runs is None or one[0] != 200:
        return False
    return (
        one[1]["state"] == state
        and [entity["id"] for entity in listed[1]["entities"]] == ["b1"]
        and summary[1]["entities"] == {state: 1}
        and [run["state"] for run in runs[1]["runs"]] == [state]
    )


async def in_metrics(runner: Deployment, process: str, **expected: int) -> bool:
    found = {
        sample.labels["state"]: sample.value
        for family in text_string_to_metric_families(page(runner, "/metrics", process))
        for sample in family.samples
        if sample.name == "runtime_entities" and sample.value
    }
    return found == expected


def page(runner: Deployment, path: str, process: str = "master") -> str:
    url = f"http://127.0.0.1:{runner.processes[process].http_port}{path}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return bytes(answer.read()).decode()


async def shown_state(terminal: Terminal) -> str:
    [bot] = (await terminal.succeed("bot", "ls", "--output", "json")).json()
    return str(bot["state"])


async def entities_of_status(terminal: Terminal) -> Any:
    services = (await terminal.succeed("status", "--output", "json")).json()
    return services[0]["entities"]
