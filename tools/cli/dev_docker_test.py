"""A person's day: a stack, a bot deployed, followed, killed, resumed, removed; a backtest run, and a schedule."""

import json
import re
import shutil
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.rigs.terminal import Terminal, followed
from tools import samples
from tools.cli.exit_codes import ExitCode
from tools.dev import state
from tools.dev.containers import Containers
from tools.engine.ensure import Engine

pytestmark = pytest.mark.timeout(400)

# Each look takes as long as a command does, which on a busy machine is seconds.
LOOKING_SECONDS = 90
GRACE_SECONDS = 30

SAMPLES = Path(samples.__file__).parent
BACKTEST = str(SAMPLES / "moving_average_crossover")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def terminal(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Terminal]:
    terminal = Terminal(tmp_path_factory.mktemp("home"))
    await terminal.succeed("dev", "up")
    yield terminal
    await terminal.succeed("dev", "down")


async def test_a_stack_shows_its_parts_and_starting_it_again_changes_nothing(terminal: Terminal) -> None:
    async def all_ready() -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = (await terminal.succeed("dev", "status", "--output", "json")).json()["parts"]
        return parts if all(part["ready"] for part in parts) else []

    before = await eventually(all_ready, LOOKING_SECONDS)
    await terminal.succeed("dev", "up")
    after = (await terminal.succeed("dev", "status", "--output", "json")).json()["parts"]

    assert {part["name"] for part in before} == {
        *("mongod", "nats", "s3"),
        *("bot-runner-master", "bot-runner-worker-1", "bot-runner-worker-2"),
        *("backtest-runner-master", "backtest-runner-worker-1"),
        *("bot-scheduler-master", "bot-scheduler-worker-1"),
    }
    assert {part["pid"] for part in after} == {part["pid"] for part in before}


async def test_a_bot_is_deployed_changed_followed_killed_resumed_and_removed(
    terminal: Terminal, docker_engine: Engine
) -> None:
    folder = str(SAMPLES / "price_ticker")
    deployed = (await terminal.succeed("bot", "deploy", folder, "--id", "../t 🤖", "--output", "json")).json()
    assert (deployed["event"], deployed["state"]) == ("created", "running")

    async with followed(terminal, "bot", "logs", "-f", "../t 🤖") as lines:
        await eventually(lambda: any("BTC-USD" in line for line in lines), LOOKING_SECONDS)
        config = json.dumps({"symbol": "DOGE-USD"})
        changed = await terminal.succeed("bot", "deploy", folder, "--id", "../t 🤖", "--config", config)
        assert "updated, and running" in changed.out
        await eventually(lambda: any("DOGE-USD" in line for line in lines), LOOKING_SECONDS)

    killed = (await terminal.succeed("bot", "kill", "../t 🤖", "--output", "json")).json()
    assert killed["down"] == ["../t 🤖"]
    assert await states(terminal) == {"../t 🤖": "killed"}

    await terminal.succeed("bot", "resume", "../t 🤖")

    async def runs_again() -> bool:
        return await states(terminal) == {"../t 🤖": "running"}

    await eventually(runs_again, LOOKING_SECONDS)

    await terminal.succeed("bot", "rm", "../t 🤖")
    assert await states(terminal) == {}
    async with Containers(docker_engine.url, state.load(terminal.home / "dev").scopes) as containers:
        assert await containers.all() == []
    assert (await terminal.run("bot", "rm", "../t 🤖")).code == ExitCode.NOT_FOUND


CAREFUL = """
import time

def main(id, config):
    try:
        while True:
            print("trading", flush=True)
            time.sleep(0.2)
    finally:
        time.sleep(0.5)
        print("orders cancelled", flush=True)
"""
STUBBORN = """
import signal, time

def main(id, config):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        print("trading", flush=True)
        time.sleep(0.2)
"""


async def test_a_bot_that_is_stopped_puts_its_affairs_in_order_and_stays_down_until_it_is_started(
    terminal: Terminal, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text(CAREFUL)
    deploy = ("bot", "deploy", str(tmp_path), "--id", "careful")
    await terminal.succeed(*deploy)

    stopped = await terminal.succeed("bot", "stop", "careful")

    assert "careful is down since" in stopped.out
    assert "orders cancelled" in (await terminal.succeed("bot", "logs", "careful")).out
    assert await states(terminal) == {"careful": "stopped"}
    assert "stopped" in (await terminal.succeed(*deploy)).out
    assert await states(terminal) == {"careful": "stopped"}
    assert (await terminal.succeed("bot", "start", "careful")).out == "started: id careful\n"

    async def runs_again() -> bool:
        return await states(terminal) == {"careful": "running"}

    await eventually(runs_again, LOOKING_SECONDS)
    await terminal.succeed("bot", "rm", "careful")


async def test_a_kill_does_not_wait_for_a_bot_that_will_not_stop(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(STUBBORN)
    await terminal.succeed("bot", "deploy", str(tmp_path), "--id", "stubborn")
    assert "is stopping" in (await terminal.succeed("bot", "stop", "stubborn", "--no-wait")).out

    killed = (await terminal.succeed("bot", "kill", "stubborn", "--output", "json")).json()

    since, down = (datetime.fromisoformat(text) for text in (killed["since"], killed["down_at"]["stubborn"]))
    assert (down - since).total_seconds() < GRACE_SECONDS / 2
    assert await states(terminal) == {"stubborn": "killed"}
    await terminal.succeed("bot", "rm", "stubborn")


async def test_unknown_bot_is_not_killed(terminal: Terminal) -> None:
    for command in ("kill", "stop"):
        for what in (("TYPO",), ("--selector", "nope=1")):
            done = await terminal.run("bot", command, *what)
            assert (done.code, done.out) == (ExitCode.NOT_FOUND, "")


async def test_failed_bot_is_reported_with_last_lines(terminal: Terminal, tmp_path: Path) -> None:
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

    run = await eventually(finished, LOOKING_SECONDS)
    assert (run["cause"], run["log"].split("/")[:2]) == ("manual", ["logs", "nightly"])
    assert "ran BTC" in run["last_lines"]
    assert "ran BTC" in (await terminal.succeed("schedule", "logs", "nightly")).out
    await terminal.succeed("schedule", "resume", "nightly")
    await terminal.succeed("schedule", "rm", "nightly")
    assert (await terminal.run("schedule", "trigger", "nightly")).code == 4


async def test_a_backtest_is_run_shown_and_written_as_a_page(terminal: Terminal, tmp_path: Path) -> None:
    page = tmp_path / "page.html"

    done = await terminal.succeed("backtest", "run", BACKTEST, "--id", "cross", "--html", str(page))

    assert re.search("uploading 3 files.*waiting for a worker.*done", done.err, re.DOTALL)
    assert "14 trades, 10000 became 9673" in done.out
    assert re.search(r"total return percent +-3\.27", done.out)
    assert "<svg" in page.read_text()
    shown = (await terminal.succeed("backtest", "show", "cross", "--output", "json")).json()
    assert (shown["state"], shown["analysis"]["metrics"]["trades"]) == ("finished", 14)
    assert "14 trades" in (await terminal.succeed("backtest", "logs", "cross")).out
    [row] = (await terminal.succeed("backtest", "ls", "--output", "json")).json()
    assert (row["id"], row["state"], row["attempt"]) == ("cross", "finished", 1)


async def test_failed_backtest_reports_reason_and_exit_code(terminal: Terminal) -> None:
    config = json.dumps({"fast_days": 50, "slow_days": 20})

    done = await terminal.run("backtest", "run", BACKTEST, "--id", "wrong", "--config", config)

    assert done.code == ExitCode.FAILED
    assert "exception: ValueError: fast_days must be above 0 and below slow_days" in done.out
    again = await terminal.run("backtest", "show", "wrong", "--output", "json")
    assert (again.code, again.json()["state"]) == (ExitCode.FAILED, "failed")


async def test_a_backtest_is_followed_and_cancelled(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        "import time\ndef main(id, config):\n    print('begun', flush=True)\n    time.sleep(600)\n"
    )

    async with followed(terminal, "backtest", "run", str(tmp_path), "--id", "long") as lines:
        await eventually(lambda: "begun" in lines, LOOKING_SECONDS)
        cancelled = await terminal.succeed("backtest", "cancel", "long")
        await eventually(lambda: any("cancelled by" in line for line in lines), LOOKING_SECONDS)

    assert cancelled.out == "long is cancelled\n"
    assert (await terminal.run("backtest", "cancel", "long")).code == ExitCode.NOT_FOUND
    assert "begun" in (await terminal.succeed("backtest", "logs", "long")).out


async def test_status_shows_owners_of_segments(terminal: Terminal) -> None:
    await terminal.succeed("bot", "deploy", str(SAMPLES / "moving_average"))

    async def with_workers() -> dict[str, Any]:
        # The leader may be too busy to answer at once; then nothing is reported about workers.
        reported: dict[str, Any] = (await terminal.succeed("status", "--output", "json")).json()[0]
        return reported if reported["workers"] is not None and all(s["worker"] for s in reported["segments"]) else {}

    bot_runner = await eventually(with_workers, LOOKING_SECONDS)
    of_stack = (await terminal.succeed("dev", "status", "--output", "json")).json()["services"][0]
    text = (await terminal.succeed("status")).out

    assert bot_runner["leader"] == of_stack["leader"]
    assert {worker["worker_id"] for worker in bot_runner["workers"]} == {"worker-1", "worker-2"}
    assert bot_runner["status_page"] in text
    assert "bots: 1 running" in text
    assert bot_runner["entities"] == {"running": 1}
    assert [(s["entities"], s["worker"] in ("worker-1", "worker-2")) for s in bot_runner["segments"]] == [(1, True)]
    await terminal.succeed("bot", "rm", "moving-average")


async def test_there_are_no_dead_letters_in_a_new_stack(terminal: Terminal) -> None:
    assert (await terminal.succeed("dlq", "ls", "--output", "json")).json() == []
    assert (await terminal.run("dlq", "show", "1")).code == ExitCode.NOT_FOUND


async def test_a_stack_with_fewer_workers_than_before_is_well(terminal: Terminal) -> None:
    await terminal.succeed("dev", "up", "--workers", "4")
    assert await workers_of(terminal) == {1, 2, 3, 4}

    await terminal.succeed("dev", "up", "--workers", "2")

    assert await workers_of(terminal) == {1, 2}

    async def is_well() -> bool:
        return (await terminal.run("dev", "status")).code == ExitCode.OK

    await eventually(is_well, LOOKING_SECONDS)


async def workers_of(terminal: Terminal) -> set[int]:
    parts = state.load(terminal.home / "dev").parts
    return {int(part.name[-1]) for part in parts if part.name.startswith("bot-runner-worker") and part.process.alive}


async def states(terminal: Terminal) -> dict[str, str]:
    bots = (await terminal.succeed("bot", "ls", "--output", "json")).json()
    return {bot["id"]: bot["state"] for bot in bots}
