"""`bot run` and `backtest run --local` as a person calls them: a process in a terminal, on a real engine."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.rigs.terminal import Terminal
from tools.author.dependencies.build import tool_of_this_machine
from tools.dev.containers import Containers
from tools.engine.ensure import Engine

pytestmark = pytest.mark.timeout(600)

# On a busy machine a command takes its time to start.
WAIT_SECONDS = 240
# Where nothing answers: the commands need no servers.
NOWHERE = {"MONGO_URI": "mongodb://127.0.0.1:1", "NATS_URL": "nats://127.0.0.1:1", "BOT_NETWORK": "none"}

CAREFUL = """
import os, sys, time
def main(id, config):
    print(id, config["symbol"], config["key"], os.environ["REGION"], "THE0_SECRET_key" in os.environ, config["n"],
          open("/data/prices").read())
    try:
        while True: time.sleep(1)
    finally:
        open("/state/after", "w").write(open("/state/before").read() + " and after")
        print("cleaned up", file=sys.stderr)
        sys.exit(7)
"""
STUBBORN = """
import signal, time
def main(id, config):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for number in range(20_000):
        print(number)
    print("up")
    while True: time.sleep(1)
"""


@pytest.fixture
def terminal(tmp_path: Path, docker_engine: Engine) -> Terminal:
    return Terminal(tmp_path / "home", NOWHERE)


@contextlib.asynccontextmanager
async def running(terminal: Terminal, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await terminal.start(*arguments)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), WAIT_SECONDS)).decode().rstrip()


async def printed_error(process: asyncio.subprocess.Process, text: bytes) -> None:
    """Return when a line with *text* came on standard error."""
    assert process.stderr is not None
    while text not in (line := await process.stderr.readline()):
        assert line, "it ended"


async def left(terminal: Terminal, engine: Engine) -> list[str]:
    """The containers with files of the terminal's home, and these files."""
    async with Containers(engine.url, [], terminal.home) as containers:
        mounting = sorted(await containers.mounting())
    return mounting + [path.name for path in (terminal.home / "local").glob("local-*")]


def bot(folder: Path, source: str, **description: object) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "main.py").write_text(source)
    (folder / "bot.json").write_text(json.dumps(description))
    return str(folder)


async def test_bot_gets_config_environment_and_secret_and_its_exit_code_is_the_commands(
    terminal: Terminal, tmp_path: Path, docker_engine: Engine
) -> None:
    config = {"symbol": "A", "key": {"$secret": "key"}, "dataSets": ["prices"]}
    folder = bot(tmp_path / "b", CAREFUL, name="careful", author="me", config=config)
    (tmp_path / "env").write_text("REGION=eu\nTHE0_SECRET_key=s3cr3t-value\n")
    (tmp_path / "more.json").write_text('{"n": 5}')

    (tmp_path / "prices.csv").write_text("42")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "before").write_text("before")

    arguments = ["--env-file", str(tmp_path / "env"), "--config", str(tmp_path / "more.json")]
    arguments += ["--data", f"prices={tmp_path / 'prices.csv'}", "--state", str(tmp_path / "state")]
    async with running(terminal, "bot", "run", folder, *arguments) as process:
        first = await line_of(process)
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(process.communicate(), WAIT_SECONDS)

    assert first == "careful A ************ eu False 5 42"
    assert "cleaned up" in errors.decode()
    assert process.returncode == 7
    assert (tmp_path / "state" / "after").read_text() == "before and after"
    assert await left(terminal, docker_engine) == []


async def test_second_signal_kills_a_bot_that_ignores_the_first(
    terminal: Terminal, tmp_path: Path, docker_engine: Engine
) -> None:
    async with running(terminal, "schedule", "run", bot(tmp_path / "b", STUBBORN)) as process:
        printed = [await line_of(process) for _ in range(20_001)]
        assert printed == [*map(str, range(20_000)), "up"]
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(printed_error(process, b"another Ctrl-C kills it"), WAIT_SECONDS)
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.communicate(), WAIT_SECONDS)

    assert process.returncode == 137
    assert await left(terminal, docker_engine) == []


async def test_killed_command_leaves_no_container_and_no_file(
    terminal: Terminal, tmp_path: Path, docker_engine: Engine
) -> None:
    await terminal.succeed("bot", "init", str(tmp_path / "b"), "--lang", "node")

    async with running(terminal, "bot", "run", str(tmp_path / "b")) as process:
        assert await line_of(process) == "b watches BTC-USD"
        assert len(await left(terminal, docker_engine)) == 2
        process.kill()

    async def nothing_is_left() -> bool:
        return await left(terminal, docker_engine) == []

    await eventually(nothing_is_left, WAIT_SECONDS)


async def test_local_backtest_shows_its_result(terminal: Terminal, tmp_path: Path) -> None:
    await terminal.succeed("bot", "init", str(tmp_path / "b"), "--kind", "backtest")

    page = tmp_path / "page.html"
    done = await terminal.succeed("backtest", "run", str(tmp_path / "b"), "--local", "--html", str(page))

    assert done.out.startswith("BTC-USD from 100.00 to ")
    assert "total return percent" in done.out
    assert '"metrics"' not in done.out
    assert "Equity" in page.read_text()


TYPED = """
import { direction, Side } from "./sides";
export function main(id: string, config: { side: Side }): { metrics: Record<string, number> } {
  return { metrics: { direction: direction(config.side) } };
}
"""
SIDES = """
export enum Side { Buy = "buy", Sell = "sell" }
export const direction = (side: Side): number => (side === Side.Sell ? -1 : 1);
"""
UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "EAI_AGAIN", "ETIMEDOUT", "ERR_SOCKET_TIMEOUT")


@pytest.mark.skipif(
    tool_of_this_machine("npm") is None, reason="the stand-in image has no npm, and this machine neither"
)
async def test_typescript_is_compiled_with_what_it_imports(terminal: Terminal, tmp_path: Path) -> None:
    folder = tmp_path / "typed"
    folder.mkdir()
    (folder / "main.ts").write_text(TYPED)
    (folder / "sides.ts").write_text(SIDES)

    done = await terminal.run("backtest", "run", str(folder), "--local", "--set", "side=sell", "--output", "json")
    if done.code != 0 and any(reason in done.err for reason in UNREACHABLE):
        pytest.skip("no registry with esbuild is reachable")

    assert (done.code, done.json()["analysis"]["metrics"]) == (0, {"direction": -1}), done.err
    assert sorted(path.name for path in folder.iterdir()) == ["main.ts", "sides.ts"]
