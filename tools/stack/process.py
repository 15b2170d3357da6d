"""One program in the background: start it with a log file, watch, stop and kill it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.stack import tethered
from tools.stack.process_identity import ProcessIdentity

_POLL_SECONDS = 0.02


class ProcessFailedError(RuntimeError):
    """A program ended that should run. The message contains the end of its log."""

    def __init__(self, name: str, exit_code: int | None, reason: str, log_path: Path, lines: int = 15) -> None:
        state = "is still running" if exit_code is None else f"ended with {describe_exit(exit_code)}"
        shown = "\n".join(f"    {line}" for line in tail(log_path, lines)) or "    (no output)"
        super().__init__(f"{name} {reason}; it {state}. Last lines of {log_path}:\n{shown}")
        self.name = name
        self.exit_code = exit_code
        self.log_path = log_path


@dataclass
class BackgroundProcess:
    """A program that writes to a log file.

    *tethered*: it is killed when this process dies (Linux), for tests and the demo. Otherwise it outlives this
    process, in its own session so that a Ctrl-C in the terminal does not reach it.
    """

    name: str
    command: Sequence[str | Path]
    log_path: Path
    environment: Mapping[str, str] | None = None
    directory: Path | None = None
    tethered: bool = True
    _child: subprocess.Popen[bytes] | None = None

    @property
    def identity(self) -> ProcessIdentity:
        """Its identity, with which another process can find it. Raises RuntimeError before launch()."""
        if self._child is None:
            raise RuntimeError(f"{self.name} was not started")
        return ProcessIdentity.of(self._child.pid)

    @property
    def pid(self) -> int:
        """Its process id. Raises RuntimeError before launch()."""
        if self._child is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs or before its start; negative: the signal that ended it."""
        return None if self._child is None else self._child.poll()

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def launch(self) -> None:
        """Start it. Its output is appended to the log file.

        Raises:
            RuntimeError: it already runs.
            OSError: the program cannot be executed.
        """
        if self.running:
            raise RuntimeError(f"{self.name} is running already")
        command = [str(part) for part in self.command]
        if self.tethered:
            command = [sys.executable, "-I", "-S", tethered.__file__, str(os.getpid()), *command]
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603 - the command is the caller's
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if self.environment is None else dict(self.environment),
                cwd=self.directory,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        """Send it a signal. No effect after its end."""
        if self._child is not None:
            self._child.send_signal(number)

    async def wait(self, within_seconds: float) -> int:
        """Wait for its end and return the exit code (negative: a signal).

        Raises:
            TimeoutError: it still runs after *within_seconds*.
        """
        async with asyncio.timeout(within_seconds):
            while self.running:  # noqa: ASYNC110 - the process cannot set an event
                await asyncio.sleep(_POLL_SECONDS)
        return self.exit_code or 0

    async def stop(self, grace_seconds: float = 10.0) -> None:
        """Send SIGTERM, and SIGKILL after *grace_seconds*. May be repeated."""
        if not self.running:
            return
        self.signal(signal.SIGCONT)  # a paused process would not see the SIGTERM
        self.signal(signal.SIGTERM)
        try:
            await self.wait(grace_seconds)
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """Send SIGKILL, and wait for its end. May be repeated."""
        if self.running:
            self.signal(signal.SIGKILL)
            await self.wait(within_seconds=30)

    def pause(self) -> None:
        """Send SIGSTOP, and return when all its threads are frozen."""
        if not self.running:
            return
        self.signal(signal.SIGSTOP)
        # Its threads stop one by one, and may answer until then. An end counts too, and is left for others to detect.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Send SIGCONT, after pause()."""
        self.signal(signal.SIGCONT)

    def failure(self, reason: str) -> ProcessFailedError:
        """Return an error with *reason* and the end of the log."""
        return ProcessFailedError(self.name, self.exit_code, reason, self.log_path)

    def forget(self) -> None:
        """Leave it running for another process to find by its identity."""
        if self._child is not None and self._child.returncode is None:
            # Popen warns when it is collected while its child lives, which is intended here.
            self._child.returncode = 0


def tail(path: Path, lines: int) -> list[str]:
    """Return the last *lines* lines of a file; none when it does not exist."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 64 * 1024))
        return file.read().decode(errors="replace").splitlines()[-lines:]


def describe_exit(code: int) -> str:
    """Return an exit code as text: `exit code 1`, `SIGKILL`."""
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"
