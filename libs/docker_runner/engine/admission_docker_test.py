"""Containers of several processes that compete for an engine's last room, on a real engine."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import docker
import pytest
import pytest_asyncio

from libs.core.aio.wake import Wake
from libs.core.room import MIB
from libs.docker_runner.containers.container import ContainerState, EndReason
from libs.docker_runner.engine.room import Priority, RoomRules
from libs.docker_runner.errors import NoRoom
from libs.docker_runner.executable import Limits
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tests.support.servers.own_engine import OwnEngine

IDLE = "import time\ndef main(id, config):\n    time.sleep(3600)\n"
ROUNDS = 5
# For each line that it reads: starts a container, and prints the result.
CONTENDER = """
import asyncio, sys
from pathlib import Path
from libs.docker_runner.errors import NoRoom
from libs.docker_runner.engine.room import Priority, RoomRules
from tests.support.rigs.bot_containers import bot_containers

def say(what):
    print("contender:", what, flush=True)

async def main(folder, url, scope, service, priority, total_mib):
    rules = RoomRules(memory_bytes=total_mib * 1024 * 1024, memory_overcommit=1.0)
    async with bot_containers(folder, scope, url, room=rules) as bots:
        executable = bots.executable("import time\\ndef main(id, config):\\n    time.sleep(3600)\\n",
                                     f"{service}-{sys.argv[7]}", service=service, priority=Priority(priority))
        await bots.runner.prepare()
        say("ready")
        while await asyncio.to_thread(sys.stdin.readline):
            try:
                container = await bots.runner.start(executable)
            except NoRoom:
                say("no room")
            else:
                say("started")
                await asyncio.to_thread(sys.stdin.readline)
                await bots.runner.remove(container)
                say("removed")

asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:5], int(sys.argv[5]), int(sys.argv[6])))
"""


class Contender:
    """A worker's process, as far as the engine is concerned."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def said(self) -> str:
        """Its next line, without log lines."""
        assert self._process.stdout is not None
        async with asyncio.timeout(240):
            while line := (await self._process.stdout.readline()).decode():
                if line.startswith("contender: "):
                    return line.removeprefix("contender: ").strip()
        return "nothing any more"

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")


@contextlib.asynccontextmanager
async def contender(
    folder: Path, url: str, scope: str, service: str, priority: Priority, total_mib: int, number: int
) -> AsyncIterator[Contender]:
    arguments = (folder, url, scope, service, int(priority), total_mib, number)
    command = (sys.executable, "-c", CONTENDER, *(str(argument) for argument in arguments))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=environment)
    try:
        yield Contender(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@pytest_asyncio.fixture(loop_scope="session")
async def empty_engine(private_engine: OwnEngine) -> AsyncIterator[OwnEngine]:
    """An engine of the tests' own, which counts no containers of other tests."""
    await private_engine.remove_containers()
    yield private_engine
    await private_engine.remove_containers()


def limited(total_mib: int) -> RoomRules:
    return RoomRules(memory_bytes=total_mib * MIB, memory_overcommit=1.0)


async def started(bots: BotContainers, bot_id: str, **more: Any) -> None:
    container = await bots.runner.start(bots.executable(IDLE, bot_id, **more))
    assert container.state is ContainerState.RUNNING


@pytest.mark.parametrize("others", [0, 1], ids=["idle engine", "one place left"])
async def test_bots_schedules_and_backtests_of_six_processes_get_the_last_place_once(
    tmp_path: Path, scope: str, empty_engine: OwnEngine, others: int
) -> None:
    kinds = [("bot-runner", Priority.BOT), ("bot-scheduler", Priority.SCHEDULE), ("backtest-runner", Priority.BACKTEST)]
    async with contextlib.AsyncExitStack() as stack:
        bots = await stack.enter_async_context(bot_containers(tmp_path, scope, empty_engine.url))
        for number in range(others):
            await started(bots, f"there-{number}")
        total_mib = 512 * (others + 1)
        contenders = [
            await stack.enter_async_context(
                contender(tmp_path, empty_engine.url, scope, service, priority, total_mib, number)
            )
            for service, priority in kinds
            for number in range(2)
        ]
        assert [await one.said() for one in contenders] == ["ready"] * 6
        for _ in range(ROUNDS):
            for one in contenders:
                one.go()
            answers = [await one.said() for one in contenders]
            assert sorted(answers) == ["no room"] * 5 + ["started"]
            winner = contenders[answers.index("started")]
            winner.go()
            assert await winner.said() == "removed"


async def test_containers_of_other_deployments_and_versions_count(
    tmp_path: Path, scope: str, empty_engine: OwnEngine
) -> None:
    rules = limited(2048)
    async with (
        bot_containers(tmp_path / "one", scope, empty_engine.url, room=rules) as ours,
        bot_containers(tmp_path / "two", f"{scope}-other", empty_engine.url, room=rules) as theirs,
    ):
        await started(theirs, "theirs", service="backtest-runner")
        client = docker.DockerClient(base_url=empty_engine.url)
        older = await asyncio.to_thread(
            client.containers.run,
            ours.settings.images["python3.11"],
            ["sleep", "3600"],
            detach=True,
            mem_limit=1000 * MIB,
            labels={"runtime.managed": "true", "runtime.id": "older"},
        )
        try:
            await started(ours, "fits", limits=Limits(memory_bytes=536 * MIB))
            with pytest.raises(NoRoom, match="needs 64 MiB, the engine has 0 MiB free"):
                await ours.runner.start(ours.executable(IDLE, "too-much", limits=Limits(memory_bytes=64 * MIB)))
        finally:
            await asyncio.to_thread(older.remove, force=True)
            client.close()
        await started(ours, "too-much", limits=Limits(memory_bytes=64 * MIB))


async def test_many_starts_of_one_process_fill_the_engine_exactly(
    tmp_path: Path, scope: str, empty_engine: OwnEngine
) -> None:
    async with bot_containers(tmp_path, scope, empty_engine.url, room=limited(5 * 64)) as bots:
        limits = Limits(memory_bytes=64 * MIB)
        starts = [bots.runner.start(bots.executable(IDLE, f"b{number}", limits=limits)) for number in range(12)]
        results = await asyncio.gather(*starts, return_exceptions=True)

    assert sum(isinstance(result, NoRoom) for result in results) == 7
    assert sum(not isinstance(result, BaseException) for result in results) == 5


async def test_a_refused_start_leaves_nothing_and_is_woken_by_the_end_of_another(
    tmp_path: Path, scope: str, empty_engine: OwnEngine
) -> None:
    async with bot_containers(tmp_path, scope, empty_engine.url, room=limited(512)) as bots:
        looking = asyncio.create_task(bots.runner.room.run())
        try:
            first = await bots.runner.start(bots.executable(IDLE, "first"))
            second = bots.executable(IDLE, "second")
            with pytest.raises(NoRoom):
                await bots.runner.start(second)
            assert [container.id for container in await bots.list()] == ["first"]
            assert len(bots.code.held) == 1

            wake = Wake()
            with bots.runner.room.waiting_for(second.room, wake):
                assert bots.runner.room.shortage(second.room) is not None
                assert (await bots.runner.stop(first, 0)).reason is EndReason.STOPPED
                await eventually(lambda: bots.runner.room.shortage(second.room) is None)
                assert await wake.wait_at_most(0)
            # The engine may clear the first one away still.
            await started(bots, "second")
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)


async def test_a_bot_that_is_replaced_has_its_own_room(tmp_path: Path, scope: str, empty_engine: OwnEngine) -> None:
    async with bot_containers(tmp_path, scope, empty_engine.url, room=limited(1024)) as bots:
        await started(bots, "other")
        for version in ("1", "2", "3"):
            container = await bots.runner.start(bots.executable(IDLE, "replaced", version=version))
            await bots.runner.stop(container, 0)
            await bots.runner.remove(container)

        again = await bots.runner.start(bots.executable(IDLE, "replaced"))
        assert (await bots.runner.start(bots.executable(IDLE, "replaced"))).container_id == again.container_id
