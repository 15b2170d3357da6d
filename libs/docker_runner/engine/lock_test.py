"""The engine's lock between processes that die, freeze and give up."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.core.aio.threads import Threads
from libs.docker_runner.engine.lock import EngineLock
from libs.docker_runner.errors import EngineLockUnavailable
from tests.support.eventually import eventually

# Adds one to a number in a file, under the lock, so slowly that an overlap loses an addition.
COUNT = """
import asyncio, sys
from pathlib import Path
from libs.docker_runner.engine.lock import EngineLock
from libs.core.aio.threads import Threads

async def main(folder, times):
    lock, number = EngineLock(folder / "lock", Threads("lock", 1)), folder / "number"
    for _ in range(times):
        async with lock.held():
            seen = int(number.read_text())
            await asyncio.sleep(0.005)
            number.write_text(str(seen + 1))

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""
# Holds the lock until it is killed or receives a line, and prints whether it kept the lock to the end.
HOLD = """
import asyncio, sys
from pathlib import Path
from libs.docker_runner.engine.lock import EngineLock
from libs.core.aio.threads import Threads

async def main(folder, stale_seconds):
    lock = EngineLock(folder / "lock", Threads("lock", 1), stale_seconds)
    async with lock.held() as hold:
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print("mine" if await lock.is_mine(hold) else "lost", flush=True)

asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
"""
FROZEN_SECONDS = 0.5


@contextlib.asynccontextmanager
async def process(script: str, *arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    command = (sys.executable, "-c", script, *(str(argument) for argument in arguments))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pipe = asyncio.subprocess.PIPE
    started = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=environment)
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.communicate()


@contextlib.asynccontextmanager
async def holder(folder: Path, stale_seconds: float = 60.0) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that has the lock."""
    async with process(HOLD, folder, stale_seconds) as started:
        assert await said(started) == "held"
        yield started


async def said(started: asyncio.subprocess.Process) -> str:
    assert started.stdout is not None
    return (await started.stdout.readline()).decode().strip()


def let_go(started: asyncio.subprocess.Process) -> None:
    assert started.stdin is not None
    started.stdin.write(b"\n")


@pytest.fixture
def threads() -> Threads:
    return Threads("lock", 1)


@contextlib.asynccontextmanager
async def waiting(lock: EngineLock) -> AsyncIterator[asyncio.Task[None]]:
    """A task that ends once it has had the lock."""

    async def have() -> None:
        async with lock.held() as hold:
            assert await lock.is_mine(hold)

    task = asyncio.create_task(have())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_no_two_of_several_processes_hold_the_lock_at_once(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    async with contextlib.AsyncExitStack() as stack:
        started = [await stack.enter_async_context(process(COUNT, tmp_path, 20)) for _ in range(4)]
        assert [await one.wait() for one in started] == [0] * 4

    assert (tmp_path / "number").read_text() == "80"


async def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path, threads: Threads) -> None:
    lock = EngineLock(tmp_path / "lock", threads, stale_seconds=3600.0)
    async with holder(tmp_path) as other, waiting(lock) as task:
        # It has been refused many times by then.
        await asyncio.wait({task}, timeout=0.2)
        assert not task.done()

        other.send_signal(signal.SIGKILL)
        await asyncio.wait_for(task, 60)


async def test_a_living_holder_keeps_the_lock_for_any_time(tmp_path: Path, threads: Threads) -> None:
    # The holder signs five times in this time; the other must miss none of fifty to take it for frozen.
    lock = EngineLock(tmp_path / "lock", threads, stale_seconds=10 * FROZEN_SECONDS)
    async with holder(tmp_path, stale_seconds=FROZEN_SECONDS) as other, waiting(lock) as task:
        before = (tmp_path / "lock").stat().st_mtime_ns
        await eventually(lambda: (tmp_path / "lock").stat().st_mtime_ns > before)
        await eventually(lambda: (tmp_path / "lock").stat().st_mtime_ns > before + 10**9)
        assert not task.done()

        let_go(other)
        assert await said(other) == "mine"
        await asyncio.wait_for(task, 60)


async def test_the_lock_of_a_frozen_process_is_taken_and_it_finds_out_before_it_acts(
    tmp_path: Path, threads: Threads
) -> None:
    lock = EngineLock(tmp_path / "lock", threads, stale_seconds=FROZEN_SECONDS)
    async with holder(tmp_path) as other:
        other.send_signal(signal.SIGSTOP)
        async with waiting(lock) as task:
            await asyncio.wait_for(task, 60)

        let_go(other)
        other.send_signal(signal.SIGCONT)
        assert await said(other) == "lost"
        async with waiting(lock) as task:
            await asyncio.wait_for(task, 60)


async def test_one_process_at_a_time_replaces_frozen_holder(tmp_path: Path) -> None:
    at_once = most = 0

    async def have() -> None:
        nonlocal at_once, most
        lock = EngineLock(tmp_path / "lock", Threads("lock", 1), stale_seconds=FROZEN_SECONDS)
        async with lock.held():
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.01)
            at_once -= 1

    async with holder(tmp_path) as other:
        other.send_signal(signal.SIGSTOP)
        await asyncio.wait_for(asyncio.gather(*(have() for _ in range(8))), 60)

    assert most == 1


async def test_cancelled_wait_leaves_lock_free(tmp_path: Path, threads: Threads) -> None:
    lock = EngineLock(tmp_path / "lock", threads)
    for pause in range(20):
        async with waiting(lock) as task:
            for _ in range(pause):
                await asyncio.sleep(0)
            task.cancel()

    async with waiting(lock) as task:
        await asyncio.wait_for(task, 60)


async def test_a_folder_that_refuses_is_an_error_with_a_remedy(tmp_path: Path, threads: Threads) -> None:
    (tmp_path / "file").write_text("")
    lock = EngineLock(tmp_path / "file" / "lock", threads)

    with pytest.raises(EngineLockUnavailable, match="TEMP_DIR"):
        async with lock.held():
            pass
