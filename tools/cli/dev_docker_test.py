"""A person's day: a stack, a bot deployed, followed, killed, resumed, removed."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tools import samples
from tools.cli.exit_codes import ExitCode
from tools.dev import state
from tools.dev.containers import Containers
from tools.engine.ensure import Engine

pytestmark = pytest.mark.timeout(240)

SAMPLES = Path(samples.__file__).parent


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


class Terminal:
    """Runs commands as a person would, with a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        servers = ("MONGO_URI", "NATS_URL", "MINIO_ENDPOINT")
        self._environment = {name: value for name, value in os.environ.items() if name not in servers}
        self._environment |= {"RUNTIME_HOME": str(home), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tools.cli", *arguments),
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str) -> Done:
        process = await self.start(*arguments)
        out, err = await process.communicate()
        return Done(process.returncode or 0, out.decode(), err.decode())

    async def succeed(self, *arguments: str) -> Done:
        done = await self.run(*arguments)
        assert done.code == 0, done
        return done


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def terminal(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Terminal]:
    terminal = Terminal(tmp_path_factory.mktemp("home"))
    await terminal.succeed("dev", "up")
    yield terminal
    await terminal.succeed("dev", "down")


@contextlib.asynccontextmanager
async def followed(terminal: Terminal, bot_id: str) -> AsyncIterator[list[str]]:
    process = await terminal.start("bot", "logs", "-f", bot_id)
    lines: list[str] = []

    async def read() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            lines.append(line.decode().rstrip())

    reading = asyncio.create_task(read())
    try:
        yield lines
    finally:
        process.terminate()
        await process.wait()
        await reading
        process._transport.close()  # type: ignore[attr-defined]  # its standard error was not read


async def test_a_stack_shows_its_parts_and_starting_it_again_changes_nothing(terminal: Terminal) -> None:
    before = (await terminal.succeed("dev", "status", "--output", "json")).json()
    await terminal.succeed("dev", "up")
    after = (await terminal.succeed("dev", "status", "--output", "json")).json()

    assert {part["name"] for part in before} == {
        *("mongod", "nats", "s3"),
        *("bot-runner-master", "bot-runner-worker-1", "bot-runner-worker-2"),
        *("backtest-runner-master", "backtest-runner-worker-1"),
        *("bot-scheduler-master", "bot-scheduler-worker-1"),
    }
    assert all(part["ready"] for part in before)
    assert {part["pid"] for part in after} == {part["pid"] for part in before}


async def test_a_bot_is_deployed_changed_followed_killed_resumed_and_removed(
    terminal: Terminal, docker_engine: Engine
) -> None:
    folder = str(SAMPLES / "price_ticker")
    deployed = (await terminal.succeed("bot", "deploy", folder, "--id", "../t 🤖", "--output", "json")).json()
    assert (deployed["event"], deployed["state"]) == ("created", "running")

    async with followed(terminal, "../t 🤖") as lines:
        await eventually(lambda: any("BTC-USD" in line for line in lines), within_seconds=20)
        config = json.dumps({"symbol": "DOGE-USD"})
        changed = await terminal.succeed("bot", "deploy", folder, "--id", "../t 🤖", "--config", config)
        assert "updated, and running" in changed.out
        await eventually(lambda: any("DOGE-USD" in line for line in lines), within_seconds=20)

    killed = (await terminal.succeed("bot", "kill", "../t 🤖", "--output", "json")).json()
    assert killed["down"] == ["../t 🤖"]
    assert await states(terminal) == {"../t 🤖": "killed"}

    await terminal.succeed("bot", "resume", "../t 🤖")
    async with asyncio.timeout(30):
        while await states(terminal) != {"../t 🤖": "running"}:
            pass  # each look takes as long as the command does

    await terminal.succeed("bot", "rm", "../t 🤖")
    assert await states(terminal) == {}
    async with Containers(docker_engine.url, state.load(terminal.home / "dev").scopes) as containers:
        assert await containers.all() == []
    assert (await terminal.run("bot", "rm", "../t 🤖")).code == ExitCode.NOT_FOUND


async def test_a_bot_that_fails_is_told_with_its_last_lines(terminal: Terminal, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "price_ticker", tmp_path / "bot")
    (tmp_path / "bot" / "main.py").write_text("def main(id, config):\n    raise ValueError('no such exchange')\n")

    done = await terminal.run("bot", "deploy", str(tmp_path / "bot"), "--id", "broken")

    assert done.code == ExitCode.FAILED
    assert "ValueError: no such exchange" in done.err
    await terminal.succeed("bot", "rm", "broken")


async def test_a_schedule_is_deployed_paused_triggered_looked_back_at_and_removed(
    terminal: Terminal, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text("def main(id, config):\n    print('ran', config['pair'])\n    return {}\n")
    config = json.dumps({"pair": "BTC"})
    options = ("--id", "nightly", "--schedule", "0 3 * * *", "--timezone", "Europe/Berlin", "--config", config)

    deployed = await terminal.succeed("schedule", "deploy", str(tmp_path), *options)
    assert "At 03:00 (Europe/Berlin); next at" in deployed.out
    await terminal.succeed("schedule", "pause", "nightly")
    [row] = (await terminal.succeed("schedule", "ls", "--output", "json")).json()
    assert (row["state"], row["next_run"]) == ("paused", None)

    await terminal.succeed("schedule", "trigger", "nightly")

    async def finished() -> dict[str, Any]:
        [run] = (await terminal.succeed("schedule", "history", "nightly", "--output", "json")).json()
        return run if run["reason"] == "finished" else {}

    run = await eventually(finished, within_seconds=20)
    assert (run["cause"], run["log"].split("/")[:2]) == ("manual", ["logs", "nightly"])
    assert "ran BTC" in run["last_lines"]
    await terminal.succeed("schedule", "resume", "nightly")
    await terminal.succeed("schedule", "rm", "nightly")
    assert (await terminal.run("schedule", "trigger", "nightly")).code == 4


async def test_status_says_who_owns_what(terminal: Terminal) -> None:
    await terminal.succeed("bot", "deploy", str(SAMPLES / "moving_average"))

    bot_runner = (await terminal.succeed("status", "--output", "json")).json()[0]

    assert bot_runner["leader"]
    assert bot_runner["entities"] == {"running": 1}
    assert [(s["entities"], s["worker"] in ("worker-1", "worker-2")) for s in bot_runner["segments"]] == [(1, True)]
    await terminal.succeed("bot", "rm", "moving-average")


async def test_there_are_no_dead_letters_in_a_new_stack(terminal: Terminal) -> None:
    assert (await terminal.succeed("dlq", "ls", "--output", "json")).json() == []
    assert (await terminal.run("dlq", "show", "1")).code == ExitCode.NOT_FOUND


async def states(terminal: Terminal) -> dict[str, str]:
    bots = (await terminal.succeed("bot", "ls", "--output", "json")).json()
    return {bot["id"]: bot["state"] for bot in bots}
