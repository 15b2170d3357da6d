"""Archives of state: check one that came out of a container and compress it; expand one that is stored. Blocks.

An archive is a tar of regular files and folders. It is never unpacked outside of a container: it is read from start to
end, entry by entry, within limits, while it is copied.
"""

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from libs.docker_runner.code.tar_reader import Readable, TarEntry, TarKind, TarReader, TarRefused
from libs.docker_runner.sandbox.container_spec import STATE_FILES

MOST_PATH_BYTES = 1024
MOST_DEPTH = 16
# An entry has up to three headers besides its content: its own, and two blocks and more for a long name.
_ENTRY_BYTES = 4096
_CHUNK_BYTES = 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS


class StateRefused(Exception):
    """The archive is no archive of a state, or is too large. *reason* is the rest of a sentence about it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class StateLimits:
    """The largest state: *size* bytes in *files* files and folders."""

    size: int
    files: int = STATE_FILES + 2

    @property
    def archive_bytes(self) -> int:
        """The size of the largest tar."""
        return self.size + self.files * _ENTRY_BYTES + 64 * 1024


@dataclass(frozen=True)
class StateContent:
    """An archive: bytes of files, number of files and folders, digest of the tar, and its compressed size."""

    size: int
    files: int
    sha256: str
    archive_bytes: int = 0


@dataclass(frozen=True)
class StateFile:
    """One file of a state, by its path below /state; *content* is None for a folder."""

    name: bytes
    content: bytes | None
    mode: int = 0o644


class _Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


def compress(source: BinaryIO, target: Path, limits: StateLimits) -> StateContent:
    """Check the tar *source* and write it compressed into the new file *target*.

    Raises:
        StateRefused: it is not a state within *limits*.
        OSError: it cannot be read or written.
    """
    with target.open("xb") as file:
        # Without a time, so that equal states are equal objects.
        packing = zlib.compressobj(1, zlib.DEFLATED, _GZIP)

        class Packed:
            def write(self, data: bytes, /) -> None:
                file.write(packing.compress(data))

        content = _copied(source, Packed(), limits)
        file.write(packing.flush())
        return replace(content, archive_bytes=file.tell())


def expand(source: BinaryIO, target: Path, limits: StateLimits) -> StateContent:
    """Check the compressed tar *source* and write it into the new file *target*; see :func:`compress`."""
    with target.open("xb") as file:
        return _copied(_Unpacked(source), file, limits)


def copy(source: BinaryIO, target: Path, limits: StateLimits) -> StateContent:
    """Check the tar *source* and write it into the new file *target*; see :func:`compress`."""
    with target.open("xb") as file:
        return _copied(source, file, limits)


def files_in(archive: bytes, limits: StateLimits) -> list[StateFile]:
    """Return the files and folders of a tar, compressed or not.

    Raises:
        StateRefused: it is not a state within *limits*.
    """
    stream: Readable = io.BytesIO(archive)
    if archive.startswith(b"\x1f\x8b"):
        stream = _Unpacked(io.BytesIO(archive))
    found = []
    reader = TarReader(stream)
    for name, entry in _entries(reader, limits, ordered=False):
        content = b"".join(iter(lambda: reader.read(_CHUNK_BYTES), b"")) if entry.kind is TarKind.FILE else None
        found.append(StateFile(name, content, entry.mode & 0o777))
    return found


def tar_of(files: Iterable[StateFile], mtime: float) -> bytes:
    """Return a tar of *files*, with all folders before what is in them."""
    named = {file.name: file for file in files}
    for name in list(named):
        parts = name.split(b"/")[:-1]
        for end in range(1, len(parts) + 1):
            folder = b"/".join(parts[:end])
            named.setdefault(folder, StateFile(folder, None, 0o755))
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for name in sorted(named):
            file = named[name]
            info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
            info.mtime, info.mode = int(mtime), file.mode & 0o777
            if file.content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(file.content)
                tar.addfile(info, io.BytesIO(file.content))
    return made.getvalue()


def _copied(source: Readable, target: _Writable, limits: StateLimits) -> StateContent:
    copying = _Copying(source, target, limits.archive_bytes)
    size = files = 0
    reader = TarReader(copying)
    for _, entry in _entries(reader, limits):
        files += 1
        size += entry.size
    return StateContent(size, files, copying.digest.hexdigest())


def _entries(reader: TarReader, limits: StateLimits, *, ordered: bool = True) -> Iterator[tuple[bytes, TarEntry]]:
    """Yield each entry with its path below the state. With *ordered*, an entry before its folder is refused."""
    size = 0
    seen: set[bytes] = set()
    folders = {b""}
    try:
        for entry in reader:
            name = entry.name.removesuffix(b"/")
            if name in (b".", b""):
                continue
            name = name.removeprefix(b"./")
            if problem := _problem(name, entry.kind):
                raise StateRefused(f"has the entry {entry.shown!r}, which {problem}")
            if name in seen:
                raise StateRefused(f"has the entry {entry.shown!r} twice")
            parent = name.rpartition(b"/")[0]
            if ordered and parent not in folders:
                raise StateRefused(f"has the entry {entry.shown!r} before its folder")
            seen.add(name)
            if len(seen) > limits.files:
                raise StateRefused(f"has more than {limits.files} files and folders")
            if entry.kind is TarKind.FOLDER:
                folders.add(name)
            size += entry.size
            if size > limits.size:
                raise StateRefused(f"has more than {limits.size} bytes; raise STATE_LIMIT_MB")
            yield name, entry
    except TarRefused as error:
        raise StateRefused(f"is damaged: {error.entry!r} {error.reason}") from error


def _problem(name: bytes, kind: TarKind) -> str:
    if kind not in (TarKind.FILE, TarKind.FOLDER):
        return f"is a {kind.value}"
    parts = name.split(b"/")
    if len(name) > MOST_PATH_BYTES or len(parts) > MOST_DEPTH:
        return "has too long a path"
    if b"\0" in name or any(part in (b"", b".", b"..") for part in parts):
        return "is not a path below the state"
    return ""


class _Copying:
    """Reads *source*, copies to *target* what was read, and digests it; refuses more than *most* bytes."""

    def __init__(self, source: Readable, target: _Writable, most: int) -> None:
        self.digest = hashlib.sha256()
        self._source, self._target, self._left = source, target, most

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise StateRefused("is larger than a state can be; raise STATE_LIMIT_MB")
        self.digest.update(data)
        self._target.write(data)
        return data


class _Unpacked:
    """The content of a gzip stream. No more of it is expanded than is read."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._unpacking = zlib.decompressobj(_GZIP)

    def read(self, size: int, /) -> bytes:
        made = b""
        try:
            while len(made) < size and not self._unpacking.eof:
                packed = self._unpacking.unconsumed_tail or self._source.read(_CHUNK_BYTES)
                if not packed:
                    raise StateRefused("is truncated")
                made += self._unpacking.decompress(packed, size - len(made))
        except zlib.error as error:
            raise StateRefused(f"is damaged: {error}") from error
        return made
