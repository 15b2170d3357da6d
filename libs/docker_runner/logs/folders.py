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
    """The owner of output, and its last container."""

    entity_id: str
    segment: int
    container_id: str


class LogFolder:
    """The folder of one bot's spool, with a lock that is released when its holder dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def try_lock(self, create: bool) -> bool:
        """Lock the folder for this process and return whether it succeeded; with *create* create a missing one."""
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
            # Another process has it, or has just removed the folder.
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def unlock(self) -> None:
        """Release the lock. May be repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def remove(self) -> None:
        """Remove it with its content; it is locked."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def has_output(self) -> bool:
        """Whether there is output that was not uploaded, judging by file names."""
        return any(path.suffix in (".spool", ".gap") for path in self.path.iterdir()) if self.path.is_dir() else False

    def quiet_seconds(self) -> float:
        """Return how long ago output was last written to it; 0 without output."""
        written = [path.stat().st_mtime for path in self.path.glob("*.spool")]
        return max(0.0, time.time() - max(written)) if written else 0.0

    def owner(self) -> LogOwner | None:
        """Return its owner; None before it was recorded, when the folder is still empty."""
        try:
            return LogOwner(**json.loads((self.path / "owner.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write_owner(self, owner: LogOwner) -> None:
        """Record its owner."""
        if self.owner() == owner:
            return
        temporary = self.path / "owner.new"
        # Escaped, since an id may contain lone surrogates.
        temporary.write_text(json.dumps(asdict(owner)))
        temporary.replace(self.path / "owner.json")


def with_output(directory: Path, known: Collection[str]) -> list[str]:
    """Return the names of folders, except *known* ones, with output that is not uploaded."""
    return [
        path.name
        for path in directory.iterdir()
        if path.name not in known and path.is_dir() and LogFolder(path).has_output
    ]


def has_output_of(directory: Path, known: Collection[str], entity_id: str) -> bool:
    """Whether a folder of this entity, except *known* ones, has output that is not uploaded."""
    names = with_output(directory, known) if directory.is_dir() else []
    owners = (LogFolder(directory / name).owner() for name in names)
    return any(owner is not None and owner.entity_id == entity_id for owner in owners)


def remove_finished(directory: Path, live: Collection[str], known: Collection[str]) -> int:
    """Remove unknown folders without output and without a *live* container; return how many."""
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
