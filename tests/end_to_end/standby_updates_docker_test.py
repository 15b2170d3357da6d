"""Updates by standbys: at no instant does the code of two versions run, and each update leaves one container."""

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import docker
import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

pytestmark = pytest.mark.timeout(600)

PYTHON = """
import os, time
def main(id, config):
    path = os.environ["STATE_DIR"] + "/count"
    count = int(open(path).read()) + 1 if os.path.exists(path) else 1
    with open(path, "w") as file:
        file.write(str(count))
    print("version", config["v"], "start", count, flush=True)
    while True:
        time.sleep(0.05)
"""
NODE = """
const fs = require("fs");
exports.main = async (id, config) => {
  const path = process.env.STATE_DIR + "/count";
  const count = fs.existsSync(path) ? parseInt(fs.readFileSync(path)) + 1 : 1;
  fs.writeFileSync(path, String(count));
  console.log("version", config.v, "start", count);
  for (;;) await new Promise((resolve) => setTimeout(resolve, 50));
};
"""
CODE = {"python3.11": ("main.py", PYTHON), "nodejs20": ("main.js", NODE)}


class CodeWatch(threading.Thread):
    """Samples which containers of a deployment run anything but their init, by the kernel's own lists of children."""

    def __init__(self, engine: Engine, scope: str) -> None:
        super().__init__(name="code watch", daemon=True)
        self._client = docker.DockerClient(base_url=engine.url, timeout=60)
        self._scope = scope
        self._over = threading.Event()
        self.doubles: list[list[str]] = []
        self.samples = 0

    def run(self) -> None:
        inits: dict[str, int] = {}
        listed_at = 0.0
        while not self._over.is_set():
            if time.monotonic() - listed_at > 0.05:
                inits = self._inits(inits)
                listed_at = time.monotonic()
            alive = {one for one, init in inits.items() if _has_children(init)}
            self.samples += 1
            if len(alive) > 1:
                self.doubles.append(sorted(alive))
            time.sleep(0.002)

    def _inits(self, known: dict[str, int]) -> dict[str, int]:
        found = {}
        for container in self._client.api.containers(filters={"label": f"runtime.scope={self._scope}"}):
            init = known.get(container["Id"])
            if init is None:
                try:
                    init = self._client.api.inspect_container(container["Id"])["State"]["Pid"]
                except docker.errors.NotFound:
                    continue
            if init:
                found[container["Id"]] = init
        return found

    def close(self) -> None:
        self._over.set()
        self.join(timeout=10)
        self._client.close()


def _has_children(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/task/{process}/children").read_text() != ""
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def code_watch(engine: Engine, scope: str) -> Iterator[CodeWatch]:
    watch = CodeWatch(engine, scope)
    watch.start()
    try:
        yield watch
    finally:
        watch.close()


@asynccontextmanager
async def standbys(folder: Path, engine: Engine) -> AsyncIterator[Deployment]:
    settings = {**PATIENT, "STANDBY_UPDATES": "true"}
    async with deployment(folder, engine, settings=settings) as made:
        await made.start(workers=1)
        for runtime, (script, source) in CODE.items():
            made.platform.upload(runtime, zipped({script: source}))
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def runner(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[Deployment]:
    async with standbys(tmp_path_factory.mktemp("standbys"), docker_engine) as made:
        yield made


@pytest.mark.parametrize("runtime", list(CODE))
async def test_updates_never_run_two_versions_and_go_on_with_the_state(runner: Deployment, runtime: str) -> None:
    bot, script = f"bot-{runtime}", CODE[runtime][0]
    await runner.platform.create_bot(bot, {"v": 0}, key=runtime, runtime=runtime, script=script)
    await eventually(partial(runner.running_with, bot, "version 0 start 1"), within_seconds=120)

    were_standbys = 0
    with code_watch(runner.engine, await runner.scope()) as watch:
        for version in range(1, 6):
            await runner.platform.update_bot(bot, {"v": version}, key=runtime, runtime=runtime, script=script)
            said = f"version {version} start {version + 1}"
            container = await eventually(partial(runner.running_with, bot, said), within_seconds=120)
            were_standbys += "runtime.standby" in container["Labels"]
            await eventually(partial(is_settled, runner, bot), within_seconds=60)

    assert watch.doubles == []
    # On a busy machine one may not be ready in time.
    assert were_standbys > 0
    assert watch.samples > 100
    runs = await ended_runs(runner, bot)
    assert [run["reason"] for run in runs] == ["changed"] * 5
    await runner.platform.delete_bot(bot)
    await eventually(partial(is_gone, runner, bot), within_seconds=60)


async def is_settled(runner: Deployment, bot: str) -> bool:
    containers = await runner.containers(bot)
    return await runner.in_state(bot, "running") and [one["Names"][0].endswith("-standby") for one in containers] == [
        False
    ]


async def ended_runs(runner: Deployment, bot: str) -> list[dict[str, Any]]:
    runs = runner.mongo[runner.service.database]["runs"]
    return [run async for run in runs.find({"entity_id": bot, "ended_at": {"$ne": None}})]


async def is_gone(runner: Deployment, bot: str) -> bool:
    return await runner.containers(bot) == []
