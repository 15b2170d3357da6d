"""A container's output, piece by piece."""

from dataclasses import dataclass

LAST_LINES = 20
"""How many lines at the end of a container's output are kept with its end."""

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
