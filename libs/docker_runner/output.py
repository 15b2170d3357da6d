"""A container's output, piece by piece."""

from dataclasses import dataclass


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
