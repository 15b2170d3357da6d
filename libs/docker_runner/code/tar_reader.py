"""A strict reader of tar streams: it rejects everything that it cannot verify.

The standard library's reader ends silently at a damaged header, reads extended headers of any declared size into memory
and ignores data after the end mark. Bots' code must be read completely or not at all, so this reader
supports the formats that current tools write (v7, ustar, GNU long names, pax) and raises for everything else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

BLOCK = 512
MAX_EXTENDED_HEADER_BYTES = 256 * 1024


class TarRefused(Exception):
    """The stream is not a valid tar. *entry* is the name of the current entry, perhaps empty."""

    def __init__(self, entry: str, reason: str) -> None:
        super().__init__(reason)
        self.entry = entry
        self.reason = reason


class Readable(Protocol):
    """A blocking stream of bytes; ``read`` returns fewer than *size* only at the end."""

    def read(self, size: int, /) -> bytes: ...


class TarKind(Enum):
    """The type of an entry."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symbolic link"
    HARD_LINK = "hard link"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"
    FIFO = "named pipe"


_KINDS = {
    b"0": TarKind.FILE,
    b"\0": TarKind.FILE,
    b"7": TarKind.FILE,
    b"1": TarKind.HARD_LINK,
    b"2": TarKind.SYMLINK,
    b"3": TarKind.CHARACTER_DEVICE,
    b"4": TarKind.BLOCK_DEVICE,
    b"5": TarKind.FOLDER,
    b"6": TarKind.FIFO,
}


@dataclass(frozen=True)
class TarEntry:
    """One member: its raw name and link target, its permission bits and its size in bytes."""

    name: bytes
    kind: TarKind
    mode: int
    size: int
    target: bytes

    @property
    def shown(self) -> str:
        """The name for messages; it may contain any bytes."""
        return self.name.decode(errors="backslashreplace")


def looks_like_tar(head: bytes) -> bool:
    """Whether *head*, the first 512 bytes of a file, is a tar header."""
    return len(head) >= BLOCK and any(head[:BLOCK]) and _checksum_matches(head[:BLOCK])


class TarReader:
    """Reads the entries of a tar in order; read the content of each, in part or completely, before the next."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._left = 0
        self._padding = 0
        self._last = ""

    def __iter__(self) -> Iterator[TarEntry]:
        """Yield every entry; return only at a valid end.

        Raises:
            TarRefused: damaged, truncated, or of an unknown type.
        """
        name = target = b""
        size: int | None = None
        while True:
            self._skip_content()
            header = self._exactly(BLOCK, "ends in the middle of a header")
            if not any(header):
                self._finish()
                return
            if not _checksum_matches(header):
                raise TarRefused(self._last, "is followed by a damaged header")
            kind = header[156:157]
            length = self._number(header[124:136])
            if kind in b"LKxg":
                content = self._extended(length)
                if kind == b"L":
                    name = content.split(b"\0", 1)[0]
                elif kind == b"K":
                    target = content.split(b"\0", 1)[0]
                else:
                    records = self._pax(content)
                    if kind == b"g" and records.keys() & {b"path", b"linkpath", b"size"}:
                        raise TarRefused(self._last, "is followed by a global header that renames every entry")
                    if kind == b"x":
                        name = records.get(b"path", name)
                        target = records.get(b"linkpath", target)
                        size = self._decimal(records[b"size"]) if b"size" in records else size
                continue
            entry = self._entry(header, kind, name, target, length if size is None else size)
            name = target = b""
            size = None
            self._last = entry.shown
            if entry.kind is TarKind.FILE:
                self._left = entry.size
                self._padding = -entry.size % BLOCK
            yield entry

    def read(self, size: int) -> bytes:
        """Return at most *size* bytes of the current entry's content; empty at its end."""
        wanted = min(size, self._left)
        if wanted == 0:
            return b""
        data = self._stream.read(wanted)
        if not data:
            raise TarRefused(self._last, "is truncated")
        self._left -= len(data)
        return data

    def _entry(self, header: bytes, kind: bytes, name: bytes, target: bytes, size: int) -> TarEntry:
        short = header[:100].split(b"\0", 1)[0]
        if header[257:263] == b"ustar\0":
            prefix = header[345:500].split(b"\0", 1)[0]
            short = prefix + b"/" + short if prefix else short
        name = name or short
        shown = name.decode(errors="backslashreplace")
        if kind not in _KINDS:
            raise TarRefused(shown, f"has the unknown type {kind.decode(errors='backslashreplace')!r}")
        found = _KINDS[kind]
        if found is TarKind.FILE and name.endswith(b"/"):
            found = TarKind.FOLDER  # v7 tars have no type for folders
        if found is not TarKind.FILE and size:
            raise TarRefused(shown, f"is a {found.value} but declares {size} bytes of content")
        target = target or header[157:257].split(b"\0", 1)[0]
        return TarEntry(name, found, self._number(header[100:108]) & 0o7777, size, target)

    def _extended(self, length: int) -> bytes:
        if length > MAX_EXTENDED_HEADER_BYTES:
            raise TarRefused(self._last, f"is followed by an extended header of {length} bytes")
        content = self._exactly(length, "is followed by a truncated extended header")
        self._exactly(-length % BLOCK, "is followed by a truncated extended header")
        return content

    def _pax(self, content: bytes) -> dict[bytes, bytes]:
        records: dict[bytes, bytes] = {}
        while content:
            digits, _, _ = content.partition(b" ")
            length = self._decimal(digits)
            record = content[len(digits) + 1 : length]
            key, equals, value = record.partition(b"=")
            if length <= len(digits) + 1 or length > len(content) or not equals or not value.endswith(b"\n"):
                raise TarRefused(self._last, "is followed by a malformed extended header")
            if key.startswith(b"GNU.sparse"):
                raise TarRefused(self._last, "is followed by a sparse file; pack it without --sparse")
            records[key] = value[:-1]
            content = content[length:]
        return records

    def _decimal(self, digits: bytes) -> int:
        if not digits.isdigit() or len(digits) > 20:
            raise TarRefused(self._last, "is followed by a malformed number")
        return int(digits)

    def _number(self, field: bytes) -> int:
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        if field[0] & 0x80:
            raise TarRefused(self._last, "is followed by a negative number")
        digits = field.strip(b" \0")
        if not all(0x30 <= digit <= 0x37 for digit in digits):
            raise TarRefused(self._last, "is followed by a malformed number")
        return int(digits or b"0", 8)

    def _skip_content(self) -> None:
        while self.read(64 * 1024):
            pass
        self._exactly(self._padding, "is truncated")
        self._padding = 0

    def _finish(self) -> None:
        while data := self._stream.read(64 * 1024):
            if any(data):
                raise TarRefused(self._last, "is followed by data after the archive's end")

    def _exactly(self, size: int, otherwise: str) -> bytes:
        data = self._stream.read(size) if size else b""
        if len(data) != size:
            raise TarRefused(self._last, otherwise)
        return data


def _checksum_matches(header: bytes) -> bool:
    digits = header[148:156].strip(b" \0")
    if not digits or not all(0x30 <= digit <= 0x37 for digit in digits):
        return False
    return sum(header[:148]) + 8 * 0x20 + sum(header[156:]) == int(digits, 8)
