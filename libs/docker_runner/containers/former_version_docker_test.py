"""During an upgrade workers of two versions read one another's containers.

The version before the init in C ran bots under a supervisor in Python, which had the bot's user and left its notes in a
file that the bot could write. Both versions share the labels, the exit codes, the keepalive and the file of notes.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from libs.docker_runner.containers.container import FORMER_USER, ContainerState, EndReason, Label, ManagedContainer
from libs.docker_runner.containers.run_folders import RunFolders
from libs.docker_runner.engine.client import Engine as EngineClient
from libs.docker_runner.executable import Network
from libs.docker_runner.sandbox.container_spec import container_body
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tools.engine.ensure import Engine

TOKEN = "0123456789ab"
NUMBERS = {
    "cpu_seconds": 0.25,
    "memory_bytes": 1000,
    "inactive_bytes": 0,
    "peak_memory_bytes": 2000,
    "memory_limit_bytes": 4000,
    "oom_kills": 0,
    "pids": 3,
    "received_bytes": 0,
    "sent_bytes": 0,
}
FORMER = f"""
import json, os, signal, sys, time
def note(reason, truncate=0):
    line = json.dumps({{"reason": reason, "kind": "none", **{NUMBERS!r}}}).ljust(511) + "\\n"
    file = os.open("/run/the0/outcome", os.O_WRONLY | truncate)
    os.write(file, line.encode())
    os.close(file)
def end(reason, code):
    note(reason, os.O_TRUNC)
    os._exit(code)
signal.signal(signal.SIGTERM, lambda *_: end("terminated", 143))
note("running")
if sys.argv[1:] == ["lost"]:
    end("lease-lost", 75)
while True:
    time.sleep(1)
"""


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.NONE) as bots:
        yield bots


async def started_by_former_version(bots: BotContainers, engine: EngineClient, *arguments: str) -> ManagedContainer:
    """A container as the former version described it; *arguments* are those of its supervisor."""
    executable = bots.executable("")
    folders = RunFolders(bots.settings.temp_dir)
    await asyncio.to_thread(folders.prepare)
    name = f"the0-test-{bots.scope}"
    code = bots.code.directory / executable.code.key
    paths = await asyncio.to_thread(folders.create, executable, name, TOKEN, code)
    body = container_body(
        executable, paths=paths, code_etag="e", token=TOKEN, user=0, attachment=None, settings=bots.settings
    ) | {"Entrypoint": ["python3", "-I", "-c", FORMER, *arguments], "User": "10001:10001"}
    del body["Labels"][Label.USER]
    host: dict[str, Any] = body["HostConfig"]
    del host["CapAdd"], host["Tmpfs"]["/run/the0/private"]
    host["Init"] = True
    for mount in host["Mounts"]:
        mount["Target"] = mount["Target"].replace("/private/outcome", "/outcome")
    await engine.start(await engine.create(name, body))
    [container] = await bots.list()
    await eventually(lambda: asyncio.to_thread(paths.outcome.read_bytes))
    return container


@pytest_asyncio.fixture(loop_scope="session")
async def engine(docker_engine: Engine) -> AsyncIterator[EngineClient]:
    client = EngineClient(docker_engine.url)
    try:
        yield client
    finally:
        await client.close()


async def test_container_of_former_version_is_sampled_and_stopped(bots: BotContainers, engine: EngineClient) -> None:
    container = await started_by_former_version(bots, engine)

    stats = await bots.runner.stats(container)
    ended = await bots.runner.stop(container)

    assert stats is not None
    assert (container.id, container.state, stats.pids) == ("b1", ContainerState.RUNNING, 3)
    assert container.user == FORMER_USER
    assert (ended.reason, ended.exit_code) == (EndReason.STOPPED, 143)
    assert (ended.cpu_seconds, ended.peak_memory_bytes) == (0.25, 2000)


async def test_lost_lease_of_former_versions_container_is_one(bots: BotContainers, engine: EngineClient) -> None:
    await started_by_former_version(bots, engine, "lost")

    async def ended() -> bool:
        return [one.state for one in await bots.list()] == [ContainerState.EXITED]

    await eventually(ended)
    found = await bots.runner.remove((await bots.list())[0])
    assert (found.reason, found.exit_code) == (EndReason.LEASE_LOST, 75)


@pytest.mark.parametrize("runtime", ["python3.11", "nodejs20"])
async def test_notes_of_the_init_are_where_and_what_the_former_version_reads(bots: BotContainers, runtime: str) -> None:
    source = {
        "python3.11": "import time\ndef main():\n while True: time.sleep(1)",
        "nodejs20": "exports.main = () => new Promise((done) => setTimeout(done, 600000))",
    }[runtime]
    container = await bots.runner.start(bots.executable(source, runtime=runtime))
    [outcome] = (bots.settings.temp_dir / "runs").glob(f"*/{container.name}/{container.token}/outcome")
    line = await eventually(lambda: asyncio.to_thread(outcome.read_bytes))

    note = json.loads(line)
    assert (len(line), line[-1:]) == (512, b"\n")
    assert note.keys() == {"reason", "kind"} | NUMBERS.keys()
    assert (note["reason"], note["kind"]) == ("running", "none")
    await bots.runner.remove(container)
