"""Unpack a bot's archive into a folder, completely or not at all; errors name the entry and the reason.

An archive may come from an attacker, and its headers are not trusted: bytes are counted as they are
written. Regular files are created exclusively while the folder contains no link; links are created last, after each
one has been resolved against the others. An archive whose files are all in one top-level folder is not flattened: the
entrypoint includes that folder.
"""

import errno
import gzip
import os
import shutil
import struct
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_IFMT, S_ISDIR, S_ISLNK, S_ISREG
from typing import BinaryIO

from libs.docker_runner.code.archive_tree import ArchiveTree, EntryRefused
from libs.docker_runner.code.tar_reader import Readable, TarKind, TarReader, TarRefused, looks_like_tar
from libs.docker_runner.errors import ArchiveRejected

_CHUNK_BYTES = 256 * 1024
_MAX_LINK_BYTES = 4096
# Below this size a ratio is meaningless: a few kilobytes of zeros.
_RATIO_COUNTS_FROM_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class ArchiveLimits:
    """The limits of an archive; the defaults suffice for a large ``node_modules``.

    ``max_ratio`` compares the output with the size of the archive, and applies from 16 MiB of output on.
    """

    max_entries: int = 60_000
    max_total_bytes: int = 1024 * 1024 * 1024
    max_ratio: int = 200
    max_depth: int = 64
    max_path_bytes: int = 1024


DEFAULT_LIMITS = ArchiveLimits()


@dataclass(frozen=True)
class Extracted:
    """The result: the number of files, and their bytes."""

    files: int
    total_bytes: int


def extract(archive: Path, destination: Path, key: str, limits: ArchiveLimits = DEFAULT_LIMITS) -> Extracted:
    """Unpack *archive* (ZIP, TAR.GZ or TAR, detected by its bytes) as the new folder *destination*. Blocks.

    Files get mode 0644, or 0755 where the archive has an executable bit, folders 0755. The folder
    appears complete, by one rename, or not at all; temporary files are removed. May be repeated.

    Args:
        key: the object's key, for messages.

    Raises:
        ArchiveRejected: unsafe or unreadable; retrying cannot help.
        FileExistsError: *destination* exists.
        OSError: the disk is full or fails.
    """
    building = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}")
    building.mkdir(mode=0o755)
    try:
        with archive.open("rb") as file:
            tree = ArchiveTree(building, limits.max_depth, limits.max_path_bytes)
            extracted = _Extraction(file, tree, key, limits).run()
        building.chmod(0o755)
        try:
            building.rename(destination)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise FileExistsError(errno.EEXIST, "the folder exists", str(destination)) from error
            raise
        return extracted
    finally:
        shutil.rmtree(building, ignore_errors=True)


class _Extraction:
    """The unpacking of one archive, with its counters."""

    def __init__(self, file: BinaryIO, tree: ArchiveTree, key: str, limits: ArchiveLimits) -> None:
        self._file = file
        self._tree = tree
        self._key = key
        self._limits = limits
        self._archive_bytes = os.fstat(file.fileno()).st_size
        self._total_bytes = 0
        self._entries = 0
        self._files = 0
        self._entry = ""

    def run(self) -> Extracted:
        head = self._file.read(512)
        self._file.seek(0)
        with self._refusals():
            if not head:
                raise EntryRefused("", "is empty")
            if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
                self._unzip()
            elif head[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=self._file) as unpacked:
                    self._untar(_Counted(unpacked, self._count_unpacked))
            elif looks_like_tar(head):
                self._untar(self._file)
            else:
                raise EntryRefused("", f"is neither ZIP nor TAR.GZ: it begins with {head[:8].hex(' ')}")
            self._tree.make_links()
            if not self._files:
                raise EntryRefused("", "contains no file")
        return Extracted(self._files, self._total_bytes)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Convert the readers' errors about the archive into ArchiveRejected; errors of the disk propagate."""
        try:
            yield
        except (EntryRefused, TarRefused) as error:
            raise ArchiveRejected(self._key, error.entry, error.reason) from error
        except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, struct.error) as error:
            raise ArchiveRejected(self._key, self._entry, f"is corrupt or truncated ({error})") from error
        except (UnicodeError, ValueError, NotImplementedError, RuntimeError, OverflowError, IndexError) as error:
            raise ArchiveRejected(self._key, self._entry, f"cannot be read ({error})") from error

    # --- ZIP

    def _unzip(self) -> None:
        # One read fetches the whole central directory, of the size that the archive declares.
        capped = _Capped(self._file, self._limits.max_entries * 256)
        try:
            archive = zipfile.ZipFile(capped, metadata_encoding="utf-8")
        except UnicodeDecodeError as error:
            raise EntryRefused(repr(error.object), "has a name that is not UTF-8") from error
        with archive:
            for member in archive.infolist():
                self._begin(member.orig_filename)
                self._zip_member(archive, member)

    def _zip_member(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        name = member.orig_filename
        # The upper half contains a Unix mode if the entry was made on Unix, and often zero otherwise.
        mode = member.external_attr >> 16
        if member.flag_bits & 0x2041:
            raise EntryRefused(name, "is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # The standard library decompresses the other methods without a bound on memory.
            raise EntryRefused(name, f"is compressed with method {member.compress_type}; use deflate")
        if S_ISLNK(mode):
            with archive.open(member) as content:
                target = content.read(_MAX_LINK_BYTES + 1)
            self._tree.link(name, _text(name, target))
        elif name.endswith("/") or S_ISDIR(mode):
            if member.file_size:
                raise EntryRefused(name, "is a folder with content")
            self._tree.folder(name)
        elif S_ISREG(mode) or not S_IFMT(mode):
            with archive.open(member) as content:
                written = self._write(name, content, executable=bool(mode & 0o111))
            if written != member.file_size:
                raise EntryRefused(name, f"has {written} bytes but declares {member.file_size}")
        else:
            raise EntryRefused(name, "is a device, a named pipe or a socket")

    # --- TAR

    def _untar(self, stream: Readable) -> None:
        reader = TarReader(stream)
        for entry in reader:
            self._begin(entry.shown)
            name = _text(entry.shown, entry.name)
            if entry.kind is TarKind.FILE:
                self._write(name, reader, executable=bool(entry.mode & 0o111))
            elif entry.kind is TarKind.FOLDER:
                self._tree.folder(name)
            elif entry.kind is TarKind.SYMLINK:
                self._tree.link(name, _text(name, entry.target))
            elif entry.kind is TarKind.HARD_LINK:
                self._tree.hard_link(name, _text(name, entry.target))
                self._files += 1
            else:
                raise EntryRefused(name, f"is a {entry.kind.value}")

    # --- both

    def _begin(self, name: str) -> None:
        self._entry = name
        self._entries += 1
        if max(self._entries, self._tree.made) > self._limits.max_entries:
            raise EntryRefused(name, f"exceeds the limit of {self._limits.max_entries} files and folders")

    def _write(self, name: str, content: Readable, executable: bool) -> int:
        written = 0
        with self._tree.file(name, executable) as file:
            while data := content.read(_CHUNK_BYTES):
                written += len(data)
                self._total_bytes += len(data)
                if self._total_bytes > self._limits.max_total_bytes:
                    raise EntryRefused(name, f"exceeds the limit of {self._limits.max_total_bytes} bytes in total")
                self._check_ratio(self._total_bytes)
                file.write(data)
        self._files += 1
        return written

    def _count_unpacked(self, unpacked_bytes: int) -> None:
        # Headers and padding count as well: a tar with only headers is a bomb too.
        if unpacked_bytes > self._limits.max_total_bytes + self._limits.max_entries * 2048:
            raise EntryRefused(self._entry, f"exceeds the limit of {self._limits.max_total_bytes} bytes in total")
        self._check_ratio(unpacked_bytes)

    def _check_ratio(self, unpacked_bytes: int) -> None:
        if unpacked_bytes > max(_RATIO_COUNTS_FROM_BYTES, self._archive_bytes * self._limits.max_ratio):
            raise EntryRefused(self._entry, f"exceeds the compression ratio of {self._limits.max_ratio}")


class _Counted:
    """A stream that counts the bytes read from it."""

    def __init__(self, stream: Readable, report: Callable[[int], None]) -> None:
        self._stream = stream
        self._report = report
        self._total = 0

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._total += len(data)
        self._report(self._total)
        return data


class _Capped:
    """A file that rejects a single read of over *limit* bytes, so that a header cannot fill the memory."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._limit = limit

    def read(self, size: int = -1, /) -> bytes:
        if size > self._limit:
            raise EntryRefused("", f"declares a list of entries of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def _text(shown: str, name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise EntryRefused(shown, f"has a name that is not UTF-8: {name!r}") from None
