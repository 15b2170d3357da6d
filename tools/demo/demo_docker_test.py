"""The demonstration as a new user starts it: a separate process."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.servers.docker import remove_containers
from tools.dev import state
from tools.dev.containers import Containers
from tools.engine.ensure import Engine

pytestmark = pytest.mark.timeout(500)


@dataclass
class Demonstration:
    """A running demo with what it printed so far."""

    process: asyncio.subprocess.Process
    home: Path
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    async def read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.lines.append(line.decode().rstrip())

    async def until(self, moment: str) -> None:
        """Return when *moment* was printed."""
        ended = asyncio.create_task(self.process.wait())
        try:
            await eventually(lambda: moment in self.text or ended.done(), within_seconds=200)
        finally:
            ended.cancel()
            assert moment in self.text, self.text

    def processes(self) -> list[str]:
        """Command lines of all processes that know the demo's folder, in their arguments or their environment."""
        return [command for pid in Path("/proc").iterdir() if pid.name.isdigit() and (command := self._of_us(pid))]

    def _of_us(self, pid: Path) -> str:
        try:
            command, environment = (pid / "cmdline").read_bytes(), (pid / "environ").read_bytes()
        except OSError:
            return ""
        ours = str(self.home).encode()
        return command.replace(b"\0", b" ").decode() if ours in command or ours in environment else ""


@contextlib.asynccontextmanager
async def demo(home: Path, *arguments: str) -> AsyncIterator[Demonstration]:
    environment = {**os.environ, "RUNTIME_HOME": str(home), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "tools.cli", "demo", *arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    demonstration = Demonstration(process, home)
    reading = asyncio.create_task(demonstration.read())
    try:
        yield demonstration
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def containers_of(engine: Engine, home: Path) -> list[str]:
    """The stack's containers, and what else mounts something out of its folder."""
    async with Containers(engine.url, state.load(home / "demo").scopes, home) as containers:
        return [container.name for container in await containers.all()] + sorted(await containers.mounting())


async def nothing_left(shown: Demonstration, engine: Engine) -> None:
    """What the demo has killed or removed may take the system another moment to be rid of."""
    await eventually(lambda: shown.processes() == [])

    async def no_containers() -> bool:
        return await containers_of(engine, shown.home) == []

    await eventually(no_containers)


async def test_bots_a_backtest_and_a_schedule_are_shown_and_nothing_is_left(
    docker_engine: Engine, tmp_path: Path
) -> None:
    async with demo(tmp_path, "--output", "json") as shown:
        exit_code = await shown.process.wait()

    assert exit_code == 0, shown.text
    assert "price-ticker │ watching BTC-USD" in shown.text
    assert "price-ticker │ stopping, 0 open orders cancelled" in shown.text
    assert "price-ticker │ watching SOL-USD" in shown.text
    assert "moving-average │ stopping, nothing to cancel" in shown.text
    report = json.loads(shown.lines[-1])
    runs = [(run["service"], run["id"], run["worker"], run["outcome"]) for run in report["runs"]]
    bots = [run for run in runs if run[0] == "bot-runner"]
    assert [run[1] for run in bots] == ["moving-average", "price-ticker", "price-ticker"]
    assert {run[2] for run in bots} == {"worker-1", "worker-2"}
    assert ("backtest-runner", "moving-average-crossover", "worker-1", "finished") in runs
    assert runs.count(("bot-scheduler", "rebalance", "worker-1", "finished")) >= 2
    assert report["metrics"]["trades"] == 14
    await nothing_left(shown, docker_engine)


@pytest.mark.parametrize(
    "moment",
    ["MongoDB, NATS", "bot-runner: a master", "watching", "is deleted"],
)
async def test_ctrl_c_at_any_time_leaves_no_container_and_no_process(
    docker_engine: Engine, tmp_path: Path, moment: str
) -> None:
    async with demo(tmp_path) as shown:
        await shown.until(moment)
        shown.process.send_signal(signal.SIGINT)
        exit_code = await asyncio.wait_for(shown.process.wait(), 120)

    assert exit_code == 130, shown.text
    assert "Traceback" not in shown.text
    await nothing_left(shown, docker_engine)


async def test_a_demo_that_was_killed_is_cleaned_up_by_the_next_one(docker_engine: Engine, tmp_path: Path) -> None:
    async with demo(tmp_path) as shown:
        await shown.until("watching")
        shown.process.kill()
    scopes = state.load(tmp_path / "demo").scopes
    await eventually(lambda: shown.processes() == [], within_seconds=60)
    try:
        assert await containers_of(docker_engine, tmp_path) != []

        async with demo(tmp_path) as again:
            assert await again.process.wait() == 0, again.text

        assert re.search(r"total return percent +-3\.27", again.text)
        assert re.search(r"^bot-scheduler +rebalance +worker-1 +[0-9a-f]{12} .* finished", again.text, re.MULTILINE)
        await nothing_left(again, docker_engine)
    finally:
        for scope in scopes:
            await asyncio.to_thread(remove_containers, docker_engine, scope)
