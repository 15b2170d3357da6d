"""The worker's side of the dead-man's switch: a small file that says until when the worker owns a segment.

Containers mount its folder and end their bots when the file says so, or when it stops changing: see
``entrypoints/python/the0_supervisor.py``.
"""

import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path

# The bots must be dead when the lease is over, and a signal takes a while.
SAFETY_SECONDS = 0.25
FILE_NAME = "lease"
_DEFAULT_TTL_SECONDS = 5.0


class KeepaliveFile:
    """The lease file of one segment in *folder*, which the engine must see at the same path.

    Its methods write a few bytes and return at once; each may be repeated.

    Args:
        ttl_seconds: the lease's life; the file never gives more than that.
    """

    def __init__(
        self,
        folder: Path,
        ttl_seconds: float = _DEFAULT_TTL_SECONDS,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        uptime: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self.folder = folder
        self._ttl = ttl_seconds
        self._monotonic = monotonic
        self._uptime = uptime
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._counter = time.time_ns()
        self._written = ""

    def refresh(self, proven_until: float) -> None:
        """Let the containers live until a little before *proven_until*, a ``time.monotonic()`` of this process."""
        left = min(proven_until - self._monotonic(), self._ttl) - SAFETY_SECONDS
        self._write(max(self._uptime() + left, 0.001), max(left, 0.0))

    def expire(self) -> None:
        """End the containers now, and let none begin late; unless another owner has refreshed the file since."""
        try:
            theirs = (self.folder / FILE_NAME).read_text() != self._written
        except FileNotFoundError:
            theirs = False
        if not theirs:
            self._write(0.0, 0.0)

    def _write(self, deadline: float, left: float) -> None:
        # A supervisor under another kernel cannot compare clocks, and counts what is left from when it sees this.
        self._counter += 1
        text = f"{self._boot_id} {deadline:.3f} {left:.3f} {self._counter}\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{FILE_NAME}.{self._counter}"
        temporary.write_text(text)
        # Readable for the bots' user whatever the umask.
        temporary.chmod(0o644)
        temporary.rename(self.folder / FILE_NAME)
        self._written = text


def remove_stale(directory: Path, segments: Collection[int], older_than_seconds: float = 600.0) -> None:
    """Remove the folders below *directory* that nobody refreshes any more, those of *segments* excepted. Blocks.

    Args:
        segments: those that have a container, or an owner here.
    """
    for folder in directory.iterdir() if directory.is_dir() else ():
        try:
            stale = time.time() - folder.stat().st_mtime > older_than_seconds
        except FileNotFoundError:
            continue
        if stale and folder.name not in {str(segment) for segment in segments}:
            shutil.rmtree(folder, ignore_errors=True)


def seconds_left(folder: Path) -> float:
    """What was left of the lease when the file in *folder* was written; a lease's usual life when there is none."""
    try:
        return float((folder / FILE_NAME).read_text().split()[2])
    except (OSError, ValueError, IndexError):
        return _DEFAULT_TTL_SECONDS
