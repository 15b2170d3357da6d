"""The folders of bots' logs on this host: one per bot, used by one process at a time. All calls block."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class LogOwner:
    """Whose output it is, and the container that it came from last."""

    entity_id: str
    segment: int
    container_id: str


class LogFolder:
    """The folder of one bot's spool, with a lock that ends with its holder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def try_lock(self, create: bool) -> bool:
        """Whether the folder is this process's now; with *create* it is made when it is missing."""
        if create:
            self.path.mkdir(parents=True, exist_ok=True)
        lock = self.path / "lock"
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), lock.stat()):
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):
            # Another has it, or has just removed the folder.
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def unlock(self) -> None:
        """Let others have it. May be repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def remove(self) -> None:
        """Remove it with all that is in it; it is locked."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def has_output(self) -> bool:
        """Whether there is output that was not uploaded, as far as names of files tell."""
        return any(path.suffix in (".spool", ".gap") for path in self.path.iterdir()) if self.path.is_dir() else False

    def quiet_seconds(self) -> float:
        """How long ago output was last written to it; 0 when there is none."""
        written = [path.stat().st_mtime for path in self.path.glob("*.spool")]
        return max(0.0, time.time() - max(written)) if written else 0.0

    def owner(self) -> LogOwner | None:
        """Whose it is; None when nobody noted it down, so that there is nothing in it."""
        try:
            return LogOwner(**json.loads((self.path / "owner.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write_owner(self, owner: LogOwner) -> None:
        """Note down whose it is."""
        if self.owner() == owner:
            return
        temporary = self.path / "owner.new"
        # Escaped, since an id may hold lone surrogates.
        temporary.write_text(json.dumps(asdict(owner)))
        temporary.replace(self.path / "owner.json")


def with_output(directory: Path, known: Collection[str]) -> list[str]:
    """The names of folders, those that are *known* excepted, with output that nobody has uploaded."""
    return [
        path.name
        for path in directory.iterdir()
        if path.name not in known and path.is_dir() and LogFolder(path).has_output
    ]


def remove_finished(directory: Path, live: Collection[str], known: Collection[str]) -> int:
    """Remove the folders without output whose container is not *live* and which are not *known*; return how many."""
    removed = 0
    for path in directory.iterdir() if directory.is_dir() else ():
        folder = LogFolder(path)
        if path.name in known or not path.is_dir() or folder.has_output or not folder.try_lock(create=False):
            continue
        try:
            owner = folder.owner()
            if not folder.has_output and (owner is None or owner.container_id not in live):
                folder.remove()
                removed += 1
        finally:
            folder.unlock()
    return removed
