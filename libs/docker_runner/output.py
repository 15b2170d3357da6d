"""A container's output, piece by piece."""

from dataclasses import dataclass

LAST_LINES = 20
"""How many lines at the end of a container's output are kept with its end."""

STREAM_END_SECONDS = 1.0
"""Within this after a container's death the engine ends its output for those who follow it, unless the stream broke."""

_LINE_BYTES = 2000


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
