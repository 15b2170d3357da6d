"""The output of a container, in pieces."""

import os
from collections import deque
from dataclasses import dataclass
from typing import BinaryIO

LAST_LINES = 20
"""How many lines at the end of a container's output are kept with its end."""

STREAM_END_SECONDS = 1.0
"""Within this after a container's death the engine ends its output for those who follow it, unless the stream broke."""

_LINE_BYTES = 2000
_READ_BYTES = 256 * 1024


@dataclass(frozen=True)
class LogLine:
    """One piece of output as the engine recorded it.

    Attributes:
        timestamp: RFC 3339 with nanoseconds, as the engine gave it; pieces of one container sort by it.
        stream: ``stdout`` or ``stderr``.
        data: the bytes with the newline, if they had one. A line longer than 16 KiB comes as several pieces.
    """

    timestamp: str
    stream: str
    data: bytes


class LastLines:
    """The last lines of output that is added piece by piece, in a few kilobytes, however long its lines are."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=LAST_LINES)
        self._open = b""

    def add(self, data: bytes) -> None:
        """Take the next piece."""
        # More of them would be dropped again, and there may be a million.
        first, *lines = data.rsplit(b"\n", LAST_LINES + 1)
        for line in lines:
            self._lines.append((self._open + first)[-_LINE_BYTES:])
            self._open, first = b"", line
        self._open = (self._open + first)[-_LINE_BYTES:]

    def lines(self) -> list[str]:
        """The last lines, an unfinished one among them."""
        return last_lines_of(b"\n".join([*self._lines, self._open]))


def last_lines_in(file: BinaryIO) -> list[str]:
    """The last lines of *file*, which is read from its end as far as they need. Blocking."""
    begin = end = file.seek(0, os.SEEK_END)
    newlines = 0
    while begin > 0 and newlines <= LAST_LINES:
        begin = max(0, begin - _READ_BYTES)
        file.seek(begin)
        newlines += file.read(min(_READ_BYTES, end - begin)).count(b"\n")
    found = LastLines()
    file.seek(begin)
    while piece := file.read(_READ_BYTES):
        found.add(piece)
    return found.lines()


def last_lines_of(output: bytes) -> list[str]:
    """The last lines of *output*, at most :data:`LAST_LINES`; of a long one its end."""
    lines = output.splitlines()[-LAST_LINES:]
    return [line[-_LINE_BYTES:].decode(errors="replace") for line in lines]


def last_lines_at(end: bytes, *, cut: bool) -> list[str] | None:
    """The last lines of an output that ends with *end*; None when that is too little to tell.

    Args:
        cut: the output is longer than *end*, whose first line may lack its beginning.
    """
    return None if cut and end.count(b"\n") <= LAST_LINES else last_lines_of(end)
