"""The dead-man's switch: no bot runs on when its worker is gone, even one that tries to."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from libs.docker_runner.containers.container import EndReason, RunOutcome
from libs.docker_runner.containers.keepalive import KeepaliveFile
from libs.docker_runner.executable import Network
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tools.engine.ensure import Engine

LEASE_SECONDS = 4.0


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    # Nothing here has to do with networks, and without one a start is quicker.
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.NONE) as bots:
        yield bots


@pytest.mark.parametrize("runtime", ["python3.11", "nodejs20"])
async def test_a_bot_whose_worker_is_gone_ends_with_the_lease(
    bots: BotContainers, tmp_path: Path, runtime: str
) -> None:
    source = {
        "python3.11": "import signal, time\nsignal.signal(15, signal.SIG_IGN)\n"
        "def main(id, config):\n print('up')\n while True: time.sleep(1)",
        "nodejs20": "process.on('SIGTERM', () => {});"
        " exports.main = () => { console.log('up'); return new Promise((r) => setInterval(() => {}, 1000)) }",
    }[runtime]
    late_seconds = []
    # How quickly is the best of three, for the sake of machines that are busy.
    for attempt in range(3):
        keepalive = KeepaliveFile(tmp_path / str(attempt))
        running, until = await without_its_worker(bots, source, keepalive, runtime=runtime)
        outcome = await running
        assert (outcome.ended.reason, outcome.ended.exit_code) == (EndReason.LEASE_LOST, 75)
        assert outcome.ended.finished_at is not None
        late_seconds.append(outcome.ended.finished_at.timestamp() - until)
        assert late_seconds[-1] > -0.5
        if late_seconds[-1] < 0.8:
            return
    pytest.fail(f"its ends were {late_seconds} s after those of the leases")


async def without_its_worker(
    bots: BotContainers, source: str, keepalive: KeepaliveFile, runtime: str = "python3.11", **more: Any
) -> tuple["asyncio.Task[RunOutcome]", float]:
    """A run whose lease is renewed until the bot says that it is up, and when it ends after that (Unix seconds)."""
    keepalive.refresh(time.monotonic() + LEASE_SECONDS)
    up = asyncio.Event()
    executable = bots.executable(source, runtime=runtime, keepalive=keepalive.folder, **more)
    running = asyncio.create_task(bots.outcome(executable, 240.0, on_output=lambda piece: up.set()))
    while not up.is_set() and not running.done():
        keepalive.refresh(time.monotonic() + LEASE_SECONDS)
        await asyncio.sleep(0.05)
    keepalive.refresh(time.monotonic() + LEASE_SECONDS)
    return running, time.time() + LEASE_SECONDS


async def test_a_bot_cannot_renew_its_own_lease(bots: BotContainers, tmp_path: Path) -> None:
    keepalive = KeepaliveFile(tmp_path / "keepalive", 240.0)
    keepalive.refresh(time.monotonic() + 240.0)
    source = "def main(id, config):\n open('/run/the0/keepalive/lease', 'w')"
    outcome, _ = await bots.run(source, keepalive=keepalive.folder)
    assert "Read-only file system" in (outcome.result_error or "")


async def test_a_container_that_starts_after_its_lease_never_runs_the_bot(bots: BotContainers, tmp_path: Path) -> None:
    keepalive = KeepaliveFile(tmp_path / "keepalive")
    keepalive.refresh(time.monotonic() - 1.0)
    outcome, output = await bots.run("def main(id, config): print('ran')", keepalive=keepalive.folder)
    assert outcome.ended.reason is EndReason.LEASE_LOST
    assert "ran\n" not in output
