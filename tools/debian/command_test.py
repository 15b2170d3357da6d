import asyncio
import os
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tools.debian.command import CommandFailedError, run_command
from tools.debian.locks import file_lock
from tools.stack.process_identity import ProcessIdentity


async def test_failed_command_is_reported_with_last_output() -> None:
    with pytest.raises(CommandFailedError, match=r"(?s)`sh -c .*` failed:\n    no luck$"):
        await run_command(["sh", "-c", "echo no luck >&2; exit 3"], within_seconds=10)


async def test_unknown_command_is_reported() -> None:
    with pytest.raises(CommandFailedError, match="`/does/not/exist` cannot be run"):
        await run_command(["/does/not/exist"], within_seconds=10)


async def test_a_command_that_takes_too_long_is_ended() -> None:
    with pytest.raises(CommandFailedError, match=r"did not end within 0\.1 s"):
        await run_command(["sleep", "60"], within_seconds=0.1)


async def test_interrupting_a_command_ends_what_it_has_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}; wait"
    running = asyncio.create_task(run_command(["sh", "-c", script], within_seconds=60))
    await eventually(pid_file.exists)
    grandchild = ProcessIdentity.of(int(pid_file.read_text()))

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    await eventually(lambda: not grandchild.alive)


async def test_environment_extends_own_environment() -> None:
    assert os.environ["PATH"]

    await run_command(["sh", "-c", 'test "$EXTRA" = 1'], within_seconds=10, environment={"EXTRA": "1"})


async def test_a_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    inside = 0

    async def enter() -> None:
        nonlocal inside
        async with file_lock(tmp_path / "folder" / "lock"):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(enter() for _ in range(5)))
