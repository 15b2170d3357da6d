"""The files of a spool: records of output, each with its position in the container's log.

Output and position are written together, so that they agree after a kill: a truncated record does not count,
and the engine is asked for that output again.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from libs.docker_runner.logs.position import Mark, Position
from libs.docker_runner.logs.spans import Span, unpack

_MAGIC = b"\xa5M"
# Magic, checksum of the rest, length of the payload and of the spans before it, source, position.
_HEADER = struct.Struct(">2sIII16s8Q")
_CHECKED_FROM = 6
# As written by an older version, without spans.
_OLD_MAGIC = b"\xa5L"
_OLD_HEADER = struct.Struct(">2sII16s7Q")

Source = bytes
"""16 bytes that identify one container."""


def source_of(container_id: str) -> Source:
    """Return the short form of a container's id."""
    return hashlib.sha256(container_id.encode(errors="surrogatepass")).digest()[:16]


@dataclass(frozen=True)
class Record:
    """Output of one container as written, and its position after it. *end* is the offset in the file.

    *packed_spans* belong to the payload; empty when unknown.
    """

    source: Source
    position: Position
    payload: bytes
    end: int
    packed_spans: bytes = b""

    @property
    def spans(self) -> list[Span]:
        """When and how the payload came."""
        return unpack(self.packed_spans) or [Span("", 0, len(self.payload), self.position.newest_ns // 1000, 0)]


def encode(source: Source, position: Position, payload: bytes, packed_spans: bytes = b"") -> bytes:
    """Return the record as bytes."""
    header = _HEADER.pack(_MAGIC, 0, len(payload), len(packed_spans), source, *pack_position(position))
    checked = header[_CHECKED_FROM:] + packed_spans + payload
    return _MAGIC + struct.pack(">I", zlib.crc32(checked)) + checked


def read_records(file: BinaryIO, offset: int = 0) -> Iterator[Record]:
    """Yield the records from *offset* on, up to the end or the first truncated or damaged one."""
    file.seek(offset)
    while magic := file.read(len(_MAGIC)):
        layout = _HEADER if magic == _MAGIC else _OLD_HEADER
        header = magic + file.read(layout.size - len(magic))
        if len(header) != layout.size or magic not in (_MAGIC, _OLD_MAGIC):
            return
        _, checksum, length, *more = layout.unpack(header)
        spans_length = more.pop(0) if magic == _MAGIC else 0
        if length + spans_length > os.fstat(file.fileno()).st_size:
            return
        content = file.read(spans_length + length)
        if len(content) != spans_length + length:
            return
        if zlib.crc32(content, zlib.crc32(header[_CHECKED_FROM:])) != checksum:
            return
        source, *numbers = more
        yield Record(
            source, unpack_position(numbers), content[spans_length:], file.tell(), packed_spans=content[:spans_length]
        )


def pack_position(position: Position) -> list[int]:
    """Pack a position as eight numbers."""
    marks = (position.mark, position.following)
    numbers = [number for mark in marks for number in (mark.since_ns, mark.count, mark.first_ns)]
    return [*numbers, position.newest_ns, position.taken_bytes]


def unpack_position(numbers: list[int]) -> Position:
    """Unpack the result of :func:`pack_position`, or of an older version with seven numbers."""
    return Position(Mark(*numbers[0:3]), Mark(*numbers[3:6]), *numbers[6:8])


@dataclass
class SpoolFile:
    """One file of a spool: output of one UTC day, or only a note of how much was dropped.

    Attributes:
        size: of the file with the records' headers; a dropped one keeps it as its end.
        payload_bytes: output in it.
        positions: the position after its last record of each container.
    """

    path: Path
    sequence: int
    day: str
    dropped: bool
    size: int = 0
    payload_bytes: int = 0
    positions: dict[Source, Position] = field(default_factory=dict)

    @classmethod
    def create(cls, folder: Path, sequence: int, day: str) -> "SpoolFile":
        """Return a new file, which is created with its first record."""
        return cls(folder / f"{sequence:010d}.{day}.spool", sequence, day, dropped=False)

    @classmethod
    def recover(cls, path: Path) -> "SpoolFile":
        """Open a file of another process; data after the last whole record is cut off."""
        number, day, kind = path.name.split(".")
        found = cls(path, int(number), day, dropped=kind == "gap")
        if found.dropped:
            found.size, found.payload_bytes = map(int, path.read_text().split())
            return found
        for record in found.records():
            found._count(record)
        if path.stat().st_size > found.size:
            os.truncate(path, found.size)
        return found

    @property
    def disk_bytes(self) -> int:
        """Its approximate size on the disk."""
        return 0 if self.dropped else self.size

    def records(self, offset: int = 0) -> Iterator[Record]:
        """Yield its records from *offset* on."""
        with self.path.open("rb") as file:
            yield from read_records(file, offset)

    def append(self, source: Source, position: Position, payload: bytes, packed_spans: bytes = b"") -> None:
        """Append a record. It survives the end of this process, but not necessarily a power failure.

        Raises:
            OSError: the disk is full or fails; nothing was added.
        """
        encoded = encode(source, position, payload, packed_spans)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            left = memoryview(encoded)
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError:
            # Records after a partial one would be unreadable.
            os.ftruncate(descriptor, self.size)
            raise
        finally:
            os.close(descriptor)
        self._count(Record(source, position, payload, self.size + len(encoded)))

    def drop(self, from_offset: int, more_bytes: int) -> "SpoolFile":
        """Replace the output from *from_offset* on by a note of its size, plus *more_bytes*."""
        lost = sum(len(record.payload) for record in self.records(from_offset)) if from_offset else self.payload_bytes
        gap = SpoolFile(self.path.with_suffix(".gap"), self.sequence, self.day, True, self.size, lost + more_bytes)
        temporary = gap.path.with_suffix(".new")
        temporary.write_text(f"{gap.size} {gap.payload_bytes}")
        temporary.replace(gap.path)
        self.path.unlink(missing_ok=True)
        return gap

    def _count(self, record: Record) -> None:
        self.size = record.end
        self.payload_bytes += len(record.payload)
        self.positions[record.source] = record.position
