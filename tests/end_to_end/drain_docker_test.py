"""A worker is drained by the command: its bots end gracefully and go on elsewhere at once, never twice at a time."""

import asyncio
import itertools
import time
import urllib.request
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest_asyncio

from libs.core.api.log_output import MOST_LINES
from tests.support.eventually import eventually
from tests.support.observers.overlaps import overlap_watch
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.rigs.terminal import Terminal
from tools.cli.exit_codes import ExitCode
from tools.dev.http import get_json
from tools.engine.ensure import Engine

BOT = """
import time
def main(id, config):
    try:
        while True:
            print("tick", time.time(), flush=True)
            time.sleep(0.1)
    finally:
        print("bye", flush=True)
"""
BOTS = ("b1", "b2", "b3")
SECONDS = 240
DOWN_SECONDS = 2.0
STARTS_ON_A_BUSY_MACHINE = 3
"""How many times what the first start took a later one may take."""


@pytest_asyncio.fixture(loop_scope="session")
async def runner(tmp_path: Path, docker_engine: Engine) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path, docker_engine, settings={**PATIENT, "MAX_BOTS_PER_PARTITION": "2"}) as made:
        await made.start(workers=2)
        made.platform.upload("bot.zip", zipped({"main.py": BOT}))
        yield made


async def test_drained_worker_gives_its_bots_to_the_other_one_and_the_last_worker_keeps_them(
    runner: Deployment,
) -> None:
    terminal = runner.terminal()
    async with overlap_watch(runner.engine, await runner.scope()) as watch:
        begun = time.time()
        for bot_id in BOTS:
            await runner.platform.create_bot(bot_id, {}, key="bot.zip")
        await eventually(lambda: all_tick(runner), within_seconds=SECONDS)
        start_seconds = time.time() - begun
        drained = await owner(runner, "b1")
        [kept] = {"w1", "w2"} - {drained}
        moving = [bot_id for bot_id in BOTS if await owner(runner, bot_id) == drained]

        done = await terminal.succeed("worker", "drain", drained, "--timeout", str(SECONDS), "--reason", "new disk")

        assert done.out == f"{drained} (bot-runner) is drained and owns nothing.\n"
        for bot_id in moving:
            await eventually(partial(goes_on, terminal, bot_id), within_seconds=SECONDS)
            gap = max(gaps(await printed(terminal, bot_id)))
            assert gap <= DOWN_SECONDS + STARTS_ON_A_BUSY_MACHINE * start_seconds, (bot_id, gap, start_seconds)
        assert {await owner(runner, bot_id) for bot_id in BOTS} == {kept}
        assert await states(terminal) == {drained: ("cordoned", []), kept: ("owning", await segments(runner))}
        assert "drained: new disk" in await page(runner, "/workers")
        assert "drained: new disk" in (await terminal.succeed("status")).out
        assert (await workers_of_api(runner))[drained]["drained"] is True
        assert "runtime_workers" in await page(runner, "/metrics")
        assert 'state="cordoned"} 1.0' in await page(runner, "/metrics")

        left = await terminal.run("worker", "drain", kept, "--timeout", "3")

        assert left.code == ExitCode.TIMEOUT
        assert "no other worker accepts segments" in left.err
        assert {await owner(runner, bot_id) for bot_id in BOTS} == {kept}
        await terminal.succeed("worker", "uncordon", drained)
        await eventually(lambda: all_owned_by(runner, drained), within_seconds=SECONDS)
        await eventually(lambda: all_tick(runner), within_seconds=SECONDS)
    assert watch.overlaps == []
    assert {bot_id: watch.starts[bot_id] for bot_id in BOTS} == {
        bot_id: 3 if bot_id in moving else 2 for bot_id in BOTS
    }


async def all_tick(runner: Deployment) -> bool:
    return all([await runner.running_with(bot_id, "tick") for bot_id in BOTS])


async def all_owned_by(runner: Deployment, worker_id: str) -> bool:
    return {await owner(runner, bot_id) for bot_id in BOTS} == {worker_id}


async def owner(runner: Deployment, bot_id: str) -> str:
    """The worker that has the lease of the bot's segment; empty while none has."""
    document = await runner.document(bot_id)
    assert document is not None
    partition = await runner.mongo["bot_runner"]["partitions"].find_one({"_id": document["segment_id"]})
    return str((partition or {}).get("lease", {}).get("worker_id") or "")


async def segments(runner: Deployment) -> list[int]:
    return sorted([p["_id"] async for p in runner.mongo["bot_runner"]["partitions"].find({"bot_count": {"$gt": 0}})])


async def printed(terminal: Terminal, bot_id: str) -> list[str]:
    return (await terminal.succeed("bot", "logs", bot_id, "-n", str(MOST_LINES))).out.splitlines()


async def goes_on(terminal: Terminal, bot_id: str) -> bool:
    """Whether the bot ended gracefully, and ticks again since."""
    lines = await printed(terminal, bot_id)
    return "bye" in lines and any(line.startswith("tick") for line in lines[lines.index("bye") :])


def gaps(lines: list[str]) -> list[float]:
    ticks = [float(line.split()[1]) for line in lines if line.startswith("tick ")]
    return [later - earlier for earlier, later in itertools.pairwise(ticks)]


async def states(terminal: Terminal) -> dict[str, tuple[str, list[int]]]:
    rows = (await terminal.succeed("worker", "ls", "--service", "bot-runner", "--output", "json")).json()
    return {row["id"]: (row["state"], row["segments"]) for row in rows}


async def workers_of_api(runner: Deployment) -> dict[str, dict[str, Any]]:
    answer = await get_json(runner.processes["master"].http_port, "/api/v1/workers")
    assert answer is not None
    return {worker["worker_id"]: worker for worker in answer[1]["workers"]}


async def page(runner: Deployment, path: str) -> str:
    return await asyncio.to_thread(_fetched, f"http://127.0.0.1:{runner.processes['master'].http_port}{path}")


def _fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return bytes(answer.read()).decode()
