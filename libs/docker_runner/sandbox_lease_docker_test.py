"""The dead-man's switch: no bot runs on when its worker is gone, whatever it does."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from libs.docker_runner.container import EndReason
from libs.docker_runner.executable import Network
from libs.docker_runner.keepalive import KeepaliveFile
from tests.support.bot_containers import BotContainers, bot_containers
from tools.engine.ensure import Engine


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    # Nothing here has to do with networks, and without one a start is quicker.
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.NONE) as bots:
        yield bots


@pytest.mark.parametrize("runtime", ["python3.11", "nodejs20"])
async def test_a_bot_whose_worker_is_gone_ends_with_the_lease(
    bots: BotContainers, tmp_path: Path, runtime: str
) -> None:
    await bots.runner.prepare()
    keepalive = KeepaliveFile(tmp_path / "keepalive")
    keepalive.refresh(time.monotonic() + 5.0)
    until = time.time() + 5.0
    source = {
        "python3.11": "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ndef main(i, c): time.sleep(60)",
        "nodejs20": "process.on('SIGTERM', () => {}); exports.main = () => new Promise((r) => setTimeout(r, 60000))",
    }[runtime]
    outcome, output = await bots.run(source, runtime=runtime, keepalive=keepalive.folder)
    assert "not starting" not in output
    assert (outcome.ended.reason, outcome.ended.exit_code) == (EndReason.LEASE_LOST, 75)
    assert outcome.ended.finished_at is not None
    assert -0.5 < outcome.ended.finished_at.timestamp() - until < 0.8


async def test_a_bot_cannot_renew_its_own_lease(bots: BotContainers, tmp_path: Path) -> None:
    keepalive = KeepaliveFile(tmp_path / "keepalive")
    keepalive.refresh(time.monotonic() + 30.0)
    source = "def main(id, config):\n open('/run/the0/keepalive/lease', 'w')"
    outcome, _ = await bots.run(source, keepalive=keepalive.folder)
    assert "Read-only file system" in (outcome.result_error or "")


async def test_a_container_that_starts_after_its_lease_never_runs_the_bot(bots: BotContainers, tmp_path: Path) -> None:
    keepalive = KeepaliveFile(tmp_path / "keepalive")
    keepalive.refresh(time.monotonic() - 1.0)
    outcome, output = await bots.run("def main(id, config): print('ran')", keepalive=keepalive.folder)
    assert outcome.ended.reason is EndReason.LEASE_LOST
    assert "ran\n" not in output
