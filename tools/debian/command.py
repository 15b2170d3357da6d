"""Run a program to its end, without leaving it behind after an interrupt."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence

_SHOWN_LINES = 15


class CommandFailedError(RuntimeError):
    """A program could not be run, failed, or took too long; the message has the end of its output."""


async def run_command(
    command: Sequence[str], *, within_seconds: float, environment: Mapping[str, str] | None = None
) -> None:
    """Run *command* without input. If this is cancelled, it and all its child processes are killed.

    Raises:
        CommandFailedError: it cannot be run, ended with an error, or did not end in time.
    """
    shown = f"`{' '.join(command)}`"
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=None if environment is None else {**os.environ, **environment},
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailedError(f"{shown} cannot be run: {error}") from error
    try:
        async with asyncio.timeout(within_seconds):
            output, _ = await process.communicate()
    except TimeoutError:
        raise CommandFailedError(f"{shown} did not end within {within_seconds:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode != 0:
        lines = output.decode(errors="replace").splitlines()[-_SHOWN_LINES:]
        raise CommandFailedError(f"{shown} failed:\n" + "\n".join(f"    {line}" for line in lines))
