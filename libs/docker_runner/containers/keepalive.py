"""The worker's side of the dead-man's switch: a file with the time until which the worker owns a segment.

Containers mount its folder and end their bots when the file expires or stops changing: see
``sandbox/init/lease.c``.
"""

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from libs.core.leases.boot_clock import boot_seconds, this_boot
from libs.core.observability.log import get_logger

log = get_logger(__name__)

# The bots must be dead when the lease is over, and a signal takes some time.
SAFETY_SECONDS = 0.25
FILE_NAME = "lease"
_DEFAULT_TTL_SECONDS = 5.0
# An older temporary file was left by a killed process.
_UNFINISHED_SECONDS = 60.0
_ABANDONED_SECONDS = 86_400.0


class KeepaliveFile:
    """The lease file of one segment in *folder*, which the engine must see at the same path.

    Its methods block for as long as it takes to write a few bytes; each may be repeated. They may be called from
    several threads: later calls take effect later.

    Args:
        ttl_seconds: the lease's life; the file never grants more than that.
    """

    def __init__(
        self,
        folder: Path,
        ttl_seconds: float = _DEFAULT_TTL_SECONDS,
        *,
        monotonic: Callable[[], float] = boot_seconds,
        uptime: Callable[[], float] = boot_seconds,
    ) -> None:
        self.folder = folder
        self._ttl = ttl_seconds
        self._monotonic = monotonic
        self._uptime = uptime
        self._boot_id = this_boot()
        self._counter = time.time_ns()
        self._temporary = folder / f".{FILE_NAME}.{secrets.token_hex(8)}"
        self._written = ""
        self._ended_epoch = 0
        self._lock = threading.Lock()

    def refresh(self, proven_until: float, epoch: int = 0) -> None:
        """Extend the containers' life until shortly before *proven_until*, by boot_seconds().

        Args:
            epoch: the ownership; one that has set a last deadline extends nothing any more.

        Raises:
            OSError: they do not see the extension. The attempt leaves no files.
        """
        with self._lock:
            if 0 < epoch <= self._ended_epoch:
                return
            left = min(proven_until - self._monotonic(), self._ttl) - SAFETY_SECONDS
            self._write(max(self._uptime() + left, 0.001), max(left, 0.0))

    def end_by(self, deadline: float, epoch: int) -> None:
        """Set the last deadline of the containers, shortly before *deadline*, by boot_seconds().

        It may be later than the lease's end, and nothing extends it, also no later owner. A container that starts
        now does not start its bot.

        Raises:
            OSError: they do not see it.
        """
        with self._lock:
            self._ended_epoch = max(self._ended_epoch, epoch)
            left = deadline - self._monotonic() - SAFETY_SECONDS
            self._write(max(self._uptime() + left, 0.001), max(left, 0.0), " final")

    def expire(self) -> None:
        """End the containers now, including late starts, unless another owner has refreshed the file since.

        Raises:
            OSError: they end when the last refresh expires.
        """
        with self._lock:
            try:
                theirs = (self.folder / FILE_NAME).read_text() != self._written
            except FileNotFoundError:
                theirs = False
            if not theirs:
                self._write(0.0, 0.0)

    def _write(self, deadline: float, left: float, form: str = "") -> None:
        # An init under another kernel cannot compare clocks, and counts the remaining time from when it reads this.
        self._counter += 1
        text = f"{self._boot_id} {deadline:.3f} {left:.3f} {self._counter}{form}\n"
        begun = self._monotonic()
        self._make_folder()
        try:
            self._temporary.write_text(text)
            # Readable for the bots' user regardless of the umask.
            self._temporary.chmod(0o644)
            if left and self._monotonic() - begun > SAFETY_SECONDS:
                # An init under another kernel would count it from now, and outlive the lease.
                raise TimeoutError(f"keepalive {self.folder}: the disk took {self._monotonic() - begun:.2f} s to write")
            self._temporary.rename(self.folder / FILE_NAME)
        except BaseException:
            with suppress(OSError):
                self._temporary.unlink(missing_ok=True)
            raise
        self._written = text

    def _make_folder(self) -> None:
        if self._written and self.folder.is_dir():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError):  # the permissions of another user's folder stay
            self.folder.chmod(0o755)
        for unfinished in self.folder.glob(f".{FILE_NAME}.*"):
            with suppress(OSError):
                if time.time() - unfinished.stat().st_mtime > _UNFINISHED_SECONDS:
                    unfinished.unlink()


class SegmentKeepalive(KeepaliveFile):
    """The lease file of one segment, also updated in *former* folders, while there is a lease file in them.

    Containers that were started under an older version or another KEEPALIVE_DIR watch the file in a former folder.
    A former one that cannot be written is no failure: the containers that watch it end when it expires, as they must.
    """

    def __init__(self, folder: Path, ttl_seconds: float = _DEFAULT_TTL_SECONDS, *, former: Sequence[Path] = ()) -> None:
        super().__init__(folder, ttl_seconds)
        self._former = [KeepaliveFile(one, ttl_seconds) for one in former]
        self._unwritable: set[Path] = set()

    def refresh(self, proven_until: float, epoch: int = 0) -> None:
        """As :meth:`KeepaliveFile.refresh`; former folders do not raise."""
        super().refresh(proven_until, epoch)
        for former in self._former:
            self._follow(former, lambda former=former: former.refresh(proven_until, epoch))  # type: ignore[misc]

    def end_by(self, deadline: float, epoch: int) -> None:
        """As :meth:`KeepaliveFile.end_by`; former folders do not raise."""
        super().end_by(deadline, epoch)
        for former in self._former:
            self._follow(former, lambda former=former: former.end_by(deadline, epoch))  # type: ignore[misc]

    def expire(self) -> None:
        """As :meth:`KeepaliveFile.expire`; former folders do not raise."""
        for former in self._former:
            self._follow(former, former.expire)
        super().expire()

    def _follow(self, former: KeepaliveFile, write: Callable[[], None]) -> None:
        try:
            if (former.folder / FILE_NAME).exists():
                write()
        except OSError as error:
            if former.folder not in self._unwritable:
                self._unwritable.add(former.folder)
                log.warning("a former keepalive cannot be written", folder=str(former.folder), reason=str(error))
        else:
            self._unwritable.discard(former.folder)


def remove_stale(directory: Path, segments: Collection[int], older_than_seconds: float = 600.0) -> None:
    """Remove the folders below *directory* that are no longer refreshed, except those of *segments*. Blocks.

    Args:
        segments: those with a container, or with an owner here.
    """
    kept = {str(segment) for segment in segments}
    for folder in directory.iterdir() if directory.is_dir() else ():
        if folder.name not in kept and _is_older(folder, older_than_seconds):
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(root: Path, older_than_seconds: float = _ABANDONED_SECONDS) -> None:
    """Remove the folders of removed services and deployments below *root*, the folder of all of them. Blocks."""
    for place in root.iterdir() if root.is_dir() else ():
        if place.is_dir() and _is_older(place, older_than_seconds):
            remove_stale(place, (), older_than_seconds)
            with suppress(OSError):  # it is in use
                place.rmdir()


def _is_older(folder: Path, seconds: float) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > seconds
    except FileNotFoundError:
        return False


def seconds_left(folder: Path) -> float:
    """Return the remaining time of the lease when the file in *folder* was written; the default life without one."""
    try:
        return float((folder / FILE_NAME).read_text().split()[2])
    except (OSError, ValueError, IndexError):
        return _DEFAULT_TTL_SECONDS


def has_expired(folder: Path) -> bool:
    """Whether the keepalive in *folder* has expired, by this host's clock; False when that is unknown. Blocks."""
    try:
        boot_id, deadline, *_ = (folder / FILE_NAME).read_text().split()
        return boot_id == this_boot() and float(deadline) <= boot_seconds()
    except (OSError, ValueError):
        return False
