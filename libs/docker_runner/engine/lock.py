"""A lock shared by all workers of one engine: a file below TEMP_DIR with `flock`.

The kernel releases it when its holder dies. A frozen holder keeps it, but does not refresh its heartbeat: after a
while another process replaces the file, and the frozen one detects that before it acts.
"""

import asyncio
import fcntl
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from libs.core.aio.threads import Threads
from libs.core.observability.log import get_logger
from libs.docker_runner.errors import EngineLockUnavailable

log = get_logger(__name__)

STALE_SECONDS = 10.0
"""Time without a heartbeat after which a holder counts as frozen."""
_SIGNS = 5
_POLL_SECONDS = (0.001, 0.01)


@dataclass(frozen=True)
class _Busy:
    """The holder of the lock: the file, and the last heartbeat, in nanoseconds."""

    inode: int
    alive_ns: int


class HeldLock:
    """The lock, held by this process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        # The number of a closed descriptor may be reused at once.
        self._using = threading.Lock()

    def is_mine(self) -> bool:
        """Refresh the heartbeat; return whether no other process has taken the lock over. Blocks briefly."""
        with self._using:
            if self._descriptor < 0:
                return False
            os.utime(self._descriptor)
            return _inode(self._path) == os.fstat(self._descriptor).st_ino

    def release(self) -> None:
        """Release the lock. May be repeated."""
        with self._using:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class EngineLock:
    """The lock of one engine. One task of a process uses it at a time.

    Args:
        path: a file that all workers of the engine see; its folder is created if missing.
        threads: for calls of the file system.
    """

    def __init__(self, path: Path, threads: Threads, stale_seconds: float = STALE_SECONDS) -> None:
        self._path = path
        self._threads = threads
        self._stale_seconds = stale_seconds

    @asynccontextmanager
    async def held(self) -> AsyncIterator[HeldLock]:
        """Hold the lock during the block.

        Raises:
            EngineLockUnavailable: the file cannot be created or locked.
        """
        held = await self._acquired()
        living = asyncio.create_task(self._live(held), name="hold the engine's lock")
        try:
            yield held
        finally:
            held.release()
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)

    async def is_mine(self, held: HeldLock) -> bool:
        """Whether *held* is still valid: the process may have been frozen for long."""
        return await self._threads.run(held.is_mine)

    async def _live(self, held: HeldLock) -> None:
        while True:
            await asyncio.sleep(self._stale_seconds / _SIGNS)
            await self._threads.run(held.is_mine)

    async def _acquired(self) -> HeldLock:
        pause, busy, since = _POLL_SECONDS[0], None, 0.0
        while True:
            found = await self._attempted()
            if isinstance(found, HeldLock):
                return found
            now = time.monotonic()
            if found != busy:
                busy, since = found, now
            elif now - since >= self._stale_seconds:
                log.warning("the engine's lock is taken over from a frozen process", seconds=round(now - since, 1))
                await self._threads.run(_replace, self._path, found.inode)
            await asyncio.sleep(pause)
            pause = min(_POLL_SECONDS[1], pause * 1.5)

    async def _attempted(self) -> HeldLock | _Busy:
        attempt = self._threads.submit(_attempt, self._path)
        try:
            return await asyncio.wrap_future(attempt)
        except asyncio.CancelledError:
            # It may have the lock already, or get it later: no other code would ever release it.
            attempt.add_done_callback(_give_back)
            raise
        except OSError as error:
            raise EngineLockUnavailable(str(self._path), error.strerror or str(error)) from error


def _give_back(attempt: "Future[HeldLock | _Busy]") -> None:
    if not attempt.cancelled() and attempt.exception() is None and isinstance(found := attempt.result(), HeldLock):
        found.release()


def _attempt(path: Path) -> HeldLock | _Busy:
    descriptor = _open(path)
    try:
        while True:
            about = os.fstat(descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return _Busy(about.st_ino, about.st_mtime_ns)
            if _inode(path) == about.st_ino:
                os.utime(descriptor)
                kept, descriptor = descriptor, -1
                return HeldLock(path, kept)
            # Another file is in its place by now.
            os.close(descriptor)
            descriptor = -1
            descriptor = _open(path)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o600)


def _inode(path: Path) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return -1


def _replace(path: Path, inode: int) -> None:
    """Replace the file with *inode* by a new one, if it is still there; of concurrent callers, one succeeds."""
    guard = os.open(path.with_name(path.name + ".replace"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _inode(path) == inode:
            new = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            os.rename(new, path)
    except BlockingIOError:
        pass  # another process replaces it
    finally:
        os.close(guard)
