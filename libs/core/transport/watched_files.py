"""Values read from files that are replaced while the process runs, such as certificates and tokens."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from libs.core.errors import UserError
from libs.core.observability.log import get_logger

log = get_logger(__name__)

T = TypeVar("T")
_LARGEST_BYTES = 1024 * 1024
_Signature = tuple[tuple[int, int, int, int] | None, ...]


class FileRejected(UserError):
    """A file with a certificate, a key or a token is missing, unreadable or invalid. *setting* names what to check."""

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(f"{setting}: {reason}; correct the file, or the setting")
        self.setting = setting


class WatchedFiles(Generic[T]):
    """A value made from several files; it is made again when one of them changes.

    New content that is invalid, as in the middle of a replacement, is logged once, and the last valid value stays.
    May be used by several threads.

    Args:
        files: by the setting that names each file.
        parse: makes the value from the contents in the same order; raises FileRejected.

    Raises:
        FileRejected: the value cannot be made now.
    """

    def __init__(self, files: Sequence[tuple[str, Path]], parse: Callable[[Sequence[bytes]], T]) -> None:
        self._files = files
        self._parse = parse
        self._lock = threading.Lock()
        self._signature = self._look()
        self._value = self._read()
        self._version = 1

    @property
    def value(self) -> T:
        """The current value. Reads the files if they have changed."""
        return self.versioned()[1]

    def versioned(self) -> tuple[int, T]:
        """Return the current value with a number that increases with each new one."""
        with self._lock:
            signature = self._look()
            if signature != self._signature:
                self._signature = signature
                self._replace()
            return self._version, self._value

    def _replace(self) -> None:
        names = [setting for setting, _ in self._files]
        try:
            value = self._read()
        except FileRejected as error:
            log.warning("changed files cannot be used; the former content stays in use", reason=str(error))
            return
        if value != self._value:
            self._value, self._version = value, self._version + 1
            log.info("changed files are in use", settings=names)

    def _read(self) -> T:
        return self._parse([_content(setting, path) for setting, path in self._files])

    def _look(self) -> _Signature:
        return tuple(_stamp(path) for _, path in self._files)


def _content(setting: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise FileRejected(setting, f"{str(path)!r} cannot be read ({error.strerror or error})") from None
    if len(content) > _LARGEST_BYTES:
        raise FileRejected(setting, f"{str(path)!r} is larger than {_LARGEST_BYTES} bytes")
    return content


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    """Return what changes with the content; links are followed, since Kubernetes replaces a link."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
