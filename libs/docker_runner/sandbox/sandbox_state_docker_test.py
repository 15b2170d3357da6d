"""The state of bots, also hostile ones: what of /state is saved, and what the next container starts with."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from libs.core.room import MIB
from libs.core.saved_state import SavedState
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.containers.failure import FailureReason
from libs.docker_runner.executable import Network
from libs.docker_runner.runner import ManagedContainer
from libs.docker_runner.state.archives import StateLimits, files_in
from libs.docker_runner.state.keeper import StateKeeper
from libs.docker_runner.state.keys import copy_key
from libs.docker_runner.state.versions import StateVersions
from tests.support.eventually import eventually
from tests.support.fakes.log_host import store_of
from tests.support.faults.hostile_bot import has_output
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tools.engine.ensure import Engine
from tools.stack.s3 import S3Server

pytestmark = pytest.mark.timeout(300)

LIMITS = StateLimits(8 * MIB)


class Documents:
    """The documents of bots, in memory."""

    def __init__(self) -> None:
        self.states: dict[str, SavedState] = {}

    async def read(self, entity_id: str) -> SavedState | None:
        return self.states.setdefault(entity_id, SavedState())

    async def claim(self, entity_id: str, *, segment: int, epoch: int, run_id: str) -> SavedState | None:
        state = self.states.setdefault(entity_id, SavedState())
        self.states[entity_id] = replace(state, segment=segment, epoch=epoch, run_id=run_id)
        return self.states[entity_id]

    async def replace(self, entity_id: str, before: SavedState, after: SavedState) -> bool:
        if self.states[entity_id] != before:
            return False
        self.states[entity_id] = after
        return True


class Hosts:
    """Hosts with one engine, one storage and one database."""

    def __init__(self, directory: Path, scope: str, engine_url: str, objects: ObjectStore, bucket: str) -> None:
        self._directory, self._scope, self._engine_url = directory, scope, engine_url
        self._objects, self._bucket = objects, bucket
        self.documents = Documents()

    @asynccontextmanager
    async def host(
        self, name: str, state_bytes: int = LIMITS.size, **settings: Any
    ) -> AsyncIterator[tuple[BotContainers, StateKeeper]]:
        """A host with a worker."""
        versions = StateVersions(self._objects, self._bucket, self.documents, "bot-runner")
        keeper = StateKeeper(
            versions,
            service="bot-runner",
            scope=self._scope,
            limits=StateLimits(state_bytes),
            owns=lambda segment: True,
        )
        keeper.begin(1, 0)
        async with bot_containers(
            self._directory / name,
            self._scope,
            self._engine_url,
            network=Network.NONE,
            state_bytes=state_bytes,
            states=keeper,
            **settings,
        ) as bots:
            yield bots, keeper
        await keeper.close()

    async def saved(self) -> dict[str, bytes | None]:
        """The files and folders of the bot's current state."""
        if self.documents.states.get("b1", SavedState()).latest is None:
            return {}
        archive = await self._objects.get(self._bucket, copy_key("b1"))
        return {file.name.decode(): file.content for file in files_in(archive, LIMITS)}

    async def is_saved(self, keeper: StateKeeper, name: str) -> bool:
        """Whether the loop, which looks once more, has saved that file."""
        await keeper.save_changed()
        return name in await self.saved()


@pytest_asyncio.fixture(loop_scope="session")
async def hosts(
    tmp_path: Path, scope: str, docker_engine: Engine, s3_server: S3Server, bucket_prefix: str
) -> AsyncIterator[Hosts]:
    objects = ObjectStore(store_of(s3_server).settings)
    await objects.ensure_bucket(bucket_prefix)
    yield Hosts(tmp_path, scope, docker_engine.url, objects, bucket_prefix)
    await objects.close()


WRITER = """
import os, signal, stat, sys, time
def main(id, config):
    folder = "/state/" + "f" * 90 + "/" + "g" * 90
    os.makedirs(folder)
    with open(folder + "/program", "w") as file:
        file.write("x" * 1000)
    os.chmod(folder + "/program", 0o750)
    open("/state/empty", "w").close()
    def stop(*_):
        with open("/state/last", "w") as file:
            file.write("written at the end")
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    print("ready", flush=True)
    time.sleep(600)
"""
READER = """
import os
def main(id, config):
    found = {}
    for folder, _, files in os.walk("/state"):
        for name in files:
            path = os.path.join(folder, name)
            with open(path) as file:
                text = file.read()
            about = os.stat(path)
            found[path] = [text[:20], len(text), oct(about.st_mode & 0o777), about.st_uid == os.getuid()]
    return found
"""


async def end(bots: BotContainers, container: ManagedContainer, grace_seconds: float = 10.0) -> None:
    await bots.runner.stop(container, grace_seconds)
    await bots.runner.remove(container)


async def test_state_until_the_last_write_is_there_on_another_host(hosts: Hosts) -> None:
    async with hosts.host("one") as (bots, keeper):
        container = await bots.runner.start(bots.executable(WRITER, run_id="r1"))
        await eventually(lambda: hosts.is_saved(keeper, "empty"), 60)
        assert "last" not in await hosts.saved()
        await end(bots, container)

    async with hosts.host("two") as (bots, _):
        outcome, output = await bots.run(READER, run_id="r2")

    long = "/state/" + "f" * 90 + "/" + "g" * 90 + "/program"
    assert outcome.result == {
        long: ["x" * 20, 1000, "0o750", True],
        "/state/empty": ["", 0, "0o644", True],
        "/state/last": ["written at the end", 18, "0o644", True],
    }, output


async def test_standby_begins_with_what_the_old_container_wrote_last(hosts: Hosts) -> None:
    async with hosts.host("one") as (bots, _):
        old = await bots.runner.start(bots.executable(WRITER, run_id="r1"))
        await eventually(lambda: has_output(bots, old))
        new = bots.executable(READER, run_id="r2")
        await bots.runner.stand_by(new)
        # The standby has not claimed the state: the old container still saves.
        await end(bots, old)

        started = await bots.runner.start(new)

        await eventually(lambda: has_output(bots, started))
        output = b"".join([line.data async for line in bots.runner.logs(started)])
        assert b"written at the end" in output
        assert hosts.documents.states["b1"].run_id == "r2"
        await bots.runner.remove(started)


HOSTILE = """
import os, signal, socket, time
def main(id, config):
    attempts = {}
    def attempt(name, what):
        try:
            attempts[name] = repr(what())
        except Exception as error:
            attempts[name] = type(error).__name__
    with open("/state/good", "w") as file:
        file.write("good")
    os.symlink("/run/the0/spec/config.json", "/state/link")
    os.symlink("/proc/1/environ", "/state/.the0-state/environ.json")
    os.mkfifo("/state/pipe")
    socket.socket(socket.AF_UNIX).bind("/state/socket")
    for process in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        if process != os.getpid():
            attempt(f"kill", lambda: os.kill(process, signal.SIGKILL))
            attempt(f"read", lambda: open(f"/proc/{process}/mem", "rb").read(1))
    attempt("archives", lambda: os.listdir("/run/the0/private/state"))
    print(attempts, flush=True)
    try:
        os.kill(-1, signal.SIGKILL)
    except OSError:
        pass
    time.sleep(600)
"""


async def test_hostile_bot_saves_its_files_alone_and_cannot_end_what_saves_them(hosts: Hosts) -> None:
    async with hosts.host("one") as (bots, keeper):
        container = await bots.runner.start(bots.executable(HOSTILE, run_id="r1"))
        await eventually(lambda: has_output(bots, container), 60)
        output = [line.data.decode() async for line in bots.runner.logs(container)]
        await eventually(lambda: hosts.is_saved(keeper, "good"), 60)

        async def has_problem() -> bool:
            await keeper.save_changed()
            return "links, sockets, pipes" in keeper.problem(container)

        await eventually(has_problem, 60)
        await end(bots, container, 0)

    assert await hosts.saved() == {"good": b"good", ".the0-state": None}
    assert output == ["{'kill': 'PermissionError', 'read': 'PermissionError', 'archives': 'PermissionError'}\n"]


FILLING = """
import signal, time
def fill(*_):
    try:
        with open("/state/large", "wb") as file:
            while True:
                file.write(bytes(1 << 16))
    except OSError:
        pass
def main(id, config):
    signal.signal(signal.SIGTERM, fill)
    with open("/state/good", "w") as file:
        file.write("good")
    while True:
        time.sleep(1)
"""


async def test_state_that_fills_its_limit_is_not_saved_and_the_last_version_stays(hosts: Hosts) -> None:
    async with hosts.host("one") as (bots, keeper):
        container = await bots.runner.start(bots.executable(FILLING, run_id="r1"))
        await eventually(lambda: hosts.is_saved(keeper, "good"), 60)
        stopping = asyncio.create_task(bots.runner.stop(container, 240))

        async def has_problem() -> bool:
            await keeper.save_changed()
            [listed] = await bots.list()
            return "STATE_LIMIT_MB" in listed.state_problem

        await eventually(has_problem, 60)
        await end(bots, container, 0)
        await stopping

    assert await hosts.saved() == {"good": b"good", ".the0-state": None}


async def test_bot_whose_state_does_not_fit_is_not_started(hosts: Hosts) -> None:
    source = "def main(id, config):\n open('/state/x', 'wb').write(b'x' * 3000000)\n"
    async with hosts.host("one") as (bots, _):
        await bots.run(source, run_id="r1")

    async with hosts.host("two", 2 * MIB) as (bots, keeper):
        keeper.beginnings._limits = LIMITS
        outcome, output = await bots.run("def main(id, config):\n print('it runs')\n", run_id="r2")

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.STATE_NOT_RESTORED
    assert "it runs" not in output
    assert hosts.documents.states["b1"].number == 1
