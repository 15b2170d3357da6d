"""The identity of a process: a pid alone may have been reused."""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessIdentity:
    """A process id and the start time of that process, in clock ticks since boot (0 without /proc)."""

    pid: int
    started_ticks: int

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity":
        """Return the identity of the current process with this id."""
        return cls(pid, _started_ticks(pid))

    @property
    def alive(self) -> bool:
        """Whether this process still runs; a zombie does not."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return _state(self.pid) != "Z" and _started_ticks(self.pid) == self.started_ticks

    def signal(self, number: int) -> None:
        """Send a signal to this process, but not to another one with its id."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stop(self, grace_seconds: float) -> None:
        """Send SIGTERM, then SIGKILL after *grace_seconds*; return when it has ended. May be repeated."""
        self.signal(signal.SIGTERM)
        if not await self._gone_within(grace_seconds):
            self.signal(signal.SIGKILL)
            await self._gone_within(10)

    async def _gone_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.alive:  # noqa: ASYNC110 - the process cannot set an event
                    await asyncio.sleep(_POLL_SECONDS)
        return not self.alive


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the command's name, which may contain spaces and parentheses."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _state(pid: int) -> str:
    fields = _stat(pid)
    return fields[0] if fields else ""


def _started_ticks(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[19]) if fields else 0
