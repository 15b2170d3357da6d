"""The last states of ended containers on this host, for their next starts here without the storage. Blocks briefly.

``saved/{name}.tar`` is the last archive of the container *name* that is in the storage: a copy that may be missing or
old, so that its digest decides. ``unsaved/{name}.json`` refers to an archive that could not be saved: the storage has
an older one. It is valid as long as the document of the entity names a run that began with it, and has no newer
version. Other workers of the host may use the same folders. Each change is one rename or removal.
"""

import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from libs.core.saved_state import SavedState

_KEPT_SECONDS = 3600.0
_KEPT_BYTES = 1024**3


@dataclass(frozen=True)
class Unsaved:
    """A state that is only on this host.

    Attributes:
        name: of the container; *token* of the start whose archive it is.
        run_ids: the run whose state it is, and those that began with it.
        number: of the newest version of the entity.
        epoch: of the owner of the segment.
        since: Unix seconds.
    """

    name: str
    token: str
    entity_id: str
    segment: int
    epoch: int
    run_ids: Sequence[str]
    number: int
    since: float

    def is_latest(self, state: SavedState) -> bool:
        """Whether nothing newer was saved than this, and no other run has claimed the state."""
        return state.run_id in self.run_ids and state.number == self.number


class KeptStates:
    """The states in *directory*, of one deployment."""

    def __init__(self, directory: Path) -> None:
        self._saved = directory / "saved"
        self._unsaved = directory / "unsaved"

    def saved(self, name: str) -> Path:
        """Return the path of the saved archive of *name*, which need not exist."""
        return self._saved / f"{name}.tar"

    def archive(self, unsaved: Unsaved) -> Path:
        """Return the path of the archive of *unsaved*."""
        return self._unsaved / f"{unsaved.name}.{unsaved.token}.tar"

    def unsaved(self, name: str) -> Unsaved | None:
        """Return the unsaved state of *name*; None without one."""
        return _read(self._unsaved / f"{name}.json")

    def all_unsaved(self, prefix: str) -> list[Unsaved]:
        """Return all unsaved states of containers whose names begin with *prefix*."""
        names = (path.name for path in _entries(self._unsaved))
        jsons = [name for name in names if name.startswith(prefix) and name.endswith(".json")]
        return [found for name in jsons if (found := _read(self._unsaved / name)) is not None]

    def keep_saved(self, name: str, archive: Path) -> None:
        """Keep the file *archive*, which is the latest state of *name* and is in the storage."""
        self._link(archive, self.saved(name))

    def keep_unsaved(self, unsaved: Unsaved, archive: Path) -> None:
        """Keep the file *archive*, which is the latest state, and is not in the storage. May be repeated."""
        kept = self.archive(unsaved)
        self._link(archive, kept)
        self._write(unsaved)
        for other in self._unsaved.glob(f"{unsaved.name}.*.tar"):
            if other != kept:
                other.unlink(missing_ok=True)

    def begin_with(self, unsaved: Unsaved, run_id: str) -> None:
        """Note that the run *run_id* may begin with *unsaved*. Call it before the run claims the state."""
        self._write(replace(unsaved, run_ids=(*unsaved.run_ids, run_id)))

    def drop(self, unsaved: Unsaved) -> None:
        """Remove *unsaved*, unless that of another start took its place."""
        current = self.unsaved(unsaved.name)
        if current is None or current.token == unsaved.token:
            (self._unsaved / f"{unsaved.name}.json").unlink(missing_ok=True)
            self.archive(unsaved).unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove saved archives that are older than an hour, and the oldest ones beyond a total size."""
        found = []
        for path in _entries(self._saved):
            with suppress(FileNotFoundError):
                known = path.lstat()
                # Not the time of the last change of the state: that of the link.
                found.append((known.st_ctime, known.st_size, path))
        left, oldest = _KEPT_BYTES, time.time() - _KEPT_SECONDS
        for kept_at, size, path in sorted(found, reverse=True):
            left -= size
            if left < 0 or kept_at < oldest:
                path.unlink(missing_ok=True)
        # What a process that died left.
        for path in _entries(self._unsaved):
            with suppress(FileNotFoundError):
                if path.suffix != ".json" and path.lstat().st_ctime < oldest and not self._is_used(path):
                    path.unlink()

    def _is_used(self, path: Path) -> bool:
        unsaved = self.unsaved(path.name.partition(".")[0])
        return unsaved is not None and self.archive(unsaved) == path

    def _write(self, unsaved: Unsaved) -> None:
        path = self._unsaved / f"{unsaved.name}.json"
        new = self._unsaved / f".{unsaved.name}-{os.urandom(4).hex()}"
        new.write_text(json.dumps(asdict(unsaved)))
        new.rename(path)

    @staticmethod
    def _link(archive: Path, target: Path) -> None:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = target.parent / f".{target.name}-{os.urandom(4).hex()}"
        # A link of a link, if a container made one, is refused when it is read.
        os.link(archive, new, follow_symlinks=False)
        new.rename(target)


def _read(path: Path) -> Unsaved | None:
    try:
        value: Any = json.loads(path.read_text())
        return Unsaved(**{**value, "run_ids": tuple(value["run_ids"])})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
