"""Bots of several workers on one engine with room for one container: the others wait, with the reason."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.servers.own_engine import OwnEngine
from tools.cli.exit_codes import ExitCode
from tools.dev.http import get_json
from tools.engine.ensure import Engine

BOT = "import time\ndef main(id, config):\n    print('up', flush=True)\n    time.sleep(3600)\n"
ONE_PLACE = {
    **PATIENT,
    "ENGINE_MEMORY_MB": "900",
    "ENGINE_MEMORY_OVERCOMMIT": "1",
    "BOT_STOP_SECONDS": "0",
    "MAX_BOTS_PER_PARTITION": "2",
}
BOTS = ("b1", "b2", "b3")
WAITING = "waiting: needs 512 MiB, the engine has 388 MiB free"


@pytest_asyncio.fixture(loop_scope="session")
async def runner(tmp_path: Path, private_engine: OwnEngine) -> AsyncIterator[Deployment]:
    await private_engine.remove_containers()
    async with deployment(tmp_path, Engine(private_engine.url), settings=ONE_PLACE) as made:
        made.platform.upload("bot.zip", zipped({"main.py": BOT}))
        await made.start(workers=2)
        yield made


async def settled(runner: Deployment) -> str | None:
    """The one running bot, once all the others wait with the reason; None before."""
    states = {bot_id: await runner.state(bot_id) for bot_id in BOTS if await runner.document(bot_id)}
    running = [bot_id for bot_id, state in states.items() if state == "running"]
    waiting = [bot_id for bot_id, state in states.items() if state == "waiting" and await detail(runner, bot_id)]
    return running[0] if len(running) == 1 and len(waiting) == len(states) - 1 else None


async def detail(runner: Deployment, bot_id: str) -> bool:
    document = await runner.document(bot_id) or {}
    return bool(document["status"]["detail"] == WAITING)


async def test_bots_of_two_workers_take_turns_on_the_one_place_of_their_engine(runner: Deployment) -> None:
    for bot_id in BOTS:
        await runner.platform.create_bot(bot_id, {}, key="bot.zip")
    at_once: list[int] = []
    first = await eventually(lambda: settled(runner), within_seconds=240) or ""
    assert len(await runner.containers()) == 1

    port = runner.processes["master"].http_port
    waiting = next(bot_id for bot_id in BOTS if bot_id != first)
    answer = await get_json(port, f"/api/v1/entities/{waiting}")
    assert answer is not None
    assert WAITING in str(answer[1])
    missing = await eventually(lambda: missing_resources(port, waiting), within_seconds=240)
    terminal = runner.terminal()
    shown = await terminal.succeed("bot", "show", waiting)
    assert "waiting: needs 512 MiB, the roomiest worker has 388 MiB (w" in shown.out
    assert shown.out.startswith(f"{waiting} waiting\n")
    listed = {bot["id"]: bot["missing"] for bot in (await terminal.succeed("bot", "ls", "--output", "json")).json()}
    assert (listed[first], listed[waiting]) == ("", missing)
    assert (await terminal.run("bot", "show", "no-such-bot")).code == ExitCode.NOT_FOUND
    await eventually(lambda: is_in_notices(port), within_seconds=240)

    await runner.platform.delete_bot(first)
    second = await eventually(lambda: another(runner, first, at_once), within_seconds=240) or ""
    await runner.platform.delete_bot(second)
    third = await eventually(lambda: another(runner, second, at_once), within_seconds=240)

    assert {first, second, third} == set(BOTS)
    assert max(at_once) == 1
    runs = await runner.mongo["bot_runner"]["runs"].find({}).to_list()
    assert sorted(run["entity_id"] for run in runs) == sorted(BOTS)


async def is_in_notices(port: int) -> bool:
    known = await get_json(port, "/api/v1/status")
    text = "the largest needs 512 MiB, the roomiest worker has 388 MiB"
    return known is not None and any(text in notice for notice in known[1]["notices"])


async def missing_resources(port: int, bot_id: str) -> str | None:
    """The bot's missing room as reported by the master, once it knows the room after the first start."""
    answer = await get_json(port, f"/api/v1/entities/{bot_id}")
    missing = str(answer[1]["missing"]) if answer is not None else ""
    return missing if missing.startswith("needs 512 MiB, the roomiest worker has 388 MiB (w") else None


async def another(runner: Deployment, before: str, at_once: list[int]) -> str | None:
    """The bot that runs now, if it is not the one *before*; *at_once* gets how many there are."""
    running = [container["Labels"]["runtime.id"] for container in await runner.containers()]
    at_once.append(len(running))
    return running[0] if running and running[0] != before else None
