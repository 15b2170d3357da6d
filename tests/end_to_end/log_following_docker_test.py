"""A user follows a bot whose worker is killed: each line once, with its run and time, whichever worker runs it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.rigs.deployment import Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine
from tools.stack.s3 import S3Server

# Equal lines, as printed by a trading bot: a text does not identify one.
PRINTS = r"""
import itertools, sys, time

def main(id, config):
    for number in itertools.count():
        print("bought 1", file=sys.stderr if number % 2 else sys.stdout, flush=True)
        time.sleep(0.1)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def made(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path_factory.mktemp("logs"), docker_engine) as made:
        made.platform.upload("prints.zip", zipped({"main.py": PRINTS}))
        await made.start(workers=2)
        await made.platform.create_bot("trader", {}, key="prints.zip")
        await eventually(lambda: made.in_state("trader", "running"))
        yield made


class Shown:
    """What `runtime bot logs` prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, made: Deployment, home: Path, *arguments: str) -> "Shown":
        environment = {
            **os.environ,
            "RUNTIME_HOME": str(home),
            "MONGO_URI": made.mongod.uri,
            "MINIO_ENDPOINT": made.s3_server.endpoint,
            "MINIO_ACCESS_KEY_ID": S3Server.access_key,
            "MINIO_SECRET_ACCESS_KEY": S3Server.secret_key,
        }
        command = [sys.executable, "-m", "tools.cli", "bot", "logs", "trader", *arguments]
        return cls(await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE))

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode().rstrip("\n"))

    async def stop_at_end(self) -> None:
        """Wait until it has shown all."""
        await asyncio.wait_for(self._process.wait(), 120)
        await self._reading

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()
        await self._reading


async def owner(made: Deployment) -> str:
    """The name of the worker that owns the bot's segment."""
    for name in ("w1", "w2"):
        if (await made.status(name)).get("held") is not None:
            return name
    return ""


async def test_follower_shows_each_line_once_when_its_worker_is_killed(made: Deployment, tmp_path: Path) -> None:
    shown = await Shown.start(made, tmp_path, "-f", "--timestamps", "-n", "3")
    await eventually(lambda: len(shown.lines) > 20)
    killed = await eventually(lambda: owner(made))
    before = len(shown.lines)

    await made.processes[killed].process.kill()

    await eventually(lambda: len(shown.lines) > before + 60)
    await shown.stop()
    lines = [line for line in shown.lines if not line.startswith("---")]
    times = [line.partition(" ")[0] for line in lines]
    assert {line.partition(" ")[2] for line in lines} == {"bought 1"}
    assert times == sorted(times)
    assert len(set(times)) == len(times), "a line was shown again"

    whole = await Shown.start(made, tmp_path, "--since", "1h", "--timestamps")
    await whole.stop_at_end()
    everything = [line for line in whole.lines if not line.startswith("---")]
    begin = everything.index(lines[0])
    assert lines == everything[begin : begin + len(lines)], "a line is missing"
