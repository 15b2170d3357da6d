"""The folder into which an archive is unpacked, and the rules for its entries.

Paths are split and checked before anything is created; nothing is created through a link, because links are created
after everything else, and only those that resolve inside the folder through all the others.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_MAX_NAME_BYTES = 255
# Linux's own limit.
_MAX_LINKS_FOLLOWED = 40
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"^[A-Za-z]:")

_Parts = tuple[str, ...]


class EntryRefused(Exception):
    """An entry is rejected: *entry* is its name in the archive, *reason* completes "entry X ..."."""

    def __init__(self, entry: str, reason: str) -> None:
        super().__init__(reason)
        self.entry = entry
        self.reason = reason


class ArchiveTree:
    """Creates files, folders and links below *root*, an existing empty folder without other writers.

    Every method raises EntryRefused for an unsafe entry, and OSError for an error of the disk.
    """

    def __init__(self, root: Path, max_depth: int, max_path_bytes: int) -> None:
        self._root = root
        self._max_depth = max_depth
        self._max_path_bytes = max_path_bytes
        self._made: dict[_Parts, str] = {}
        self._links: dict[_Parts, tuple[str, str]] = {}

    @property
    def made(self) -> int:
        """The number of files, folders and links, including folders that no entry names."""
        return len(self._made)

    @contextmanager
    def file(self, name: str, executable: bool) -> Iterator[BinaryIO]:
        """Create a regular file and return it for writing."""
        path = self._claim(name, "file")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            # A file system that treats two spellings as one name: never overwrite.
            raise EntryRefused(name, "has the name of another entry on this disk") from None
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o755 if executable else 0o644)
            yield file

    def folder(self, name: str) -> None:
        """Create a folder; an existing one is kept."""
        parts = self._parts(name)
        if parts:
            self._ensure_folder(name, parts)

    def hard_link(self, name: str, target: str) -> None:
        """Create a hard link to a regular file from earlier in the archive."""
        try:
            source = self._parts(target)
        except EntryRefused as error:
            raise EntryRefused(name, f"is a hard link to {target!r}, which {error.reason}") from error
        if self._made.get(source) != "file":
            raise EntryRefused(name, f"is a hard link to {target!r}, which is not an earlier file of the archive")
        os.link(self._root.joinpath(*source), self._claim(name, "file"), follow_symlinks=False)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link, to be created by :meth:`make_links`."""
        self._claim(name, "link")
        self._links[self._parts(name)] = (name, target)

    def make_links(self) -> None:
        """Create the symbolic links, after all else: none may lead out of the folder, directly or indirectly."""
        for parts, (name, target) in self._links.items():
            self._follow(name, parts, target)
        for parts, (_, target) in self._links.items():
            os.symlink(target, self._root.joinpath(*parts))

    def _parts(self, name: str) -> _Parts:
        if _CONTROL.search(name):
            raise EntryRefused(name, "has a control character in its name")
        if "\\" in name:
            raise EntryRefused(name, "has a backslash in its name; pack it with forward slashes")
        if name.startswith("/") or _DRIVE.match(name):
            raise EntryRefused(name, "has an absolute path")
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts:
            raise EntryRefused(name, "has '..' in its path")
        if len(parts) > self._max_depth:
            raise EntryRefused(name, f"is nested more than {self._max_depth} folders deep")
        if len(os.fsencode(name)) > self._max_path_bytes or any(len(os.fsencode(p)) > _MAX_NAME_BYTES for p in parts):
            raise EntryRefused(name, f"has a name over {_MAX_NAME_BYTES} or a path over {self._max_path_bytes} bytes")
        return parts

    def _claim(self, name: str, kind: str) -> Path:
        """Return the path for a new file or link, and create its folders."""
        parts = self._parts(name)
        if not parts:
            raise EntryRefused(name, f"is a {kind} without a name")
        if parts in self._made:
            raise EntryRefused(name, f"occurs twice, and the first is a {self._made[parts]}")
        if len(parts) > 1:
            self._ensure_folder(name, parts[:-1])
        self._made[parts] = kind
        return self._root.joinpath(*parts)

    def _ensure_folder(self, name: str, parts: _Parts) -> None:
        for depth in range(1, len(parts) + 1):
            above = parts[:depth]
            kind = self._made.get(above)
            if kind is None:
                path = self._root.joinpath(*above)
                try:
                    path.mkdir()
                except FileExistsError:
                    raise EntryRefused(name, "has the name of another entry on this disk") from None
                path.chmod(0o755)
                self._made[above] = "folder"
            elif kind != "folder":
                raise EntryRefused(name, f"needs {'/'.join(above)!r} as a folder, but that is a {kind}")

    def _follow(self, name: str, parts: _Parts, target: str) -> None:
        """Resolve *target* like the kernel, with all links on the way."""
        if not target or _CONTROL.search(target):
            raise EntryRefused(name, f"is a link to {target!r}")
        at = list(parts[:-1])
        ahead = _steps(name, target)
        followed = 0
        while ahead:
            step = ahead.pop()
            if step == "..":
                if not at:
                    raise EntryRefused(name, f"is a link to {target!r}, which leaves the folder")
                at.pop()
                continue
            at.append(step)
            if tuple(at) in self._links:
                followed += 1
                if followed > _MAX_LINKS_FOLLOWED:
                    raise EntryRefused(name, f"is a link to {target!r}, which leads through too many links")
                _, onward = self._links[tuple(at)]
                at.pop()
                ahead += _steps(name, onward)


def _steps(name: str, target: str) -> list[str]:
    """Return the components of a link's target, the first one last."""
    if target.startswith("/"):
        raise EntryRefused(name, f"leads to {target!r}, which leaves the folder")
    return [part for part in reversed(target.split("/")) if part not in ("", ".")]
