"""The output of a container, in pieces."""

import os
from collections import deque
from dataclasses import dataclass
from typing import BinaryIO

LAST_LINES = 20
"""Number of lines at the end of a container's output that are stored with its end."""

STREAM_END_SECONDS = 1.0
"""Time after a container's death within which the engine ends its output for followers, unless the stream broke."""

_LINE_BYTES = 2000
_READ_BYTES = 256 * 1024


@dataclass(frozen=True)
class LogLine:
    """One piece of output as recorded by the engine.

    Attributes:
        timestamp: RFC 3339 with nanoseconds, as the engine returned it; pieces of one container sort by it.
        stream: ``stdout`` or ``stderr``.
        data: the bytes with the newline, if any. A line longer than 16 KiB is split into several pieces.
    """

    timestamp: str
    stream: str
    data: bytes


class LastLines:
    """The last lines of output that is added piece by piece, in a few kilobytes, regardless of line lengths."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=LAST_LINES)
        self._open = b""

    def add(self, data: bytes) -> None:
        """Add the next piece."""
        # More lines would be dropped again, and there may be a million.
        first, *lines = data.rsplit(b"\n", LAST_LINES + 1)
        for line in lines:
            self._lines.append((self._open + first)[-_LINE_BYTES:])
            self._open, first = b"", line
        self._open = (self._open + first)[-_LINE_BYTES:]

    def lines(self) -> list[str]:
        """The last lines, including an unfinished one."""
        return last_lines_of(b"\n".join([*self._lines, self._open]))


def last_lines_in(file: BinaryIO) -> list[str]:
    """Return the last lines of *file*, which is read from its end as far as necessary. Blocks."""
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
    """Return the last lines of *output*, at most :data:`LAST_LINES`; of a long line its end."""
    lines = output.splitlines()[-LAST_LINES:]
    return [line[-_LINE_BYTES:].decode(errors="replace") for line in lines]


def last_lines_at(end: bytes, *, cut: bool) -> list[str] | None:
    """Return the last lines of an output that ends with *end*; None when *end* is too short to contain them.

    Args:
        cut: the output is longer than *end*, whose first line may lack its beginning.
    """
    return None if cut and end.count(b"\n") <= LAST_LINES else last_lines_of(end)
