"""The position up to which a container's output was read, so that reading resumes without loss or repeats.

The engine returns all output since an instant, in the order in which it wrote it. A timestamp alone
does not suffice to resume: several pieces may share it, and as stdout and stderr are stamped before they are written,
a piece may come after a slightly younger one. So a position is an instant and *how many* pieces from then on have been
taken: a reader that resumes at that instant skips so many. The instant advances, to keep the number small, but stays
at least a second behind the newest piece, far more than two timestamps can be out of order.
"""

import functools
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

SECOND_NS = 1_000_000_000
_DAY_NS = 86_400 * SECOND_NS
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z$")


@dataclass(frozen=True)
class Mark:
    """An instant, how many pieces with this or a later timestamp were taken, and the timestamp of the first of them."""

    since_ns: int
    count: int = 0
    first_ns: int = 0

    def counting(self, stamp_ns: int) -> "Mark":
        """Return the mark after one more taken piece."""
        if stamp_ns < self.since_ns:
            return self
        return Mark(self.since_ns, self.count + 1, self.first_ns if self.count else stamp_ns)


@dataclass(frozen=True)
class Position:
    """A mark to resume from, the next one, and the newest timestamp seen. All in nanoseconds since 1970.

    *taken_bytes* is the size of the output taken so far; 0 where an older version did not count it.
    """

    mark: Mark
    following: Mark
    newest_ns: int
    taken_bytes: int = 0

    @property
    def since(self) -> datetime | None:
        """The instant from which to request output; None for all. Rounded down to the precision of a datetime."""
        if self.mark.since_ns == 0:
            return None
        return _EPOCH + timedelta(microseconds=self.mark.since_ns // 1000)

    def taking(self, stamp_ns: int, size: int = 0) -> "Position":
        """Return the position after one more piece of *size* bytes."""
        newest = max(self.newest_ns, stamp_ns)
        mark, following = self.mark.counting(stamp_ns), self.following.counting(stamp_ns)
        if newest >= following.since_ns + SECOND_NS:
            # No piece so far has a timestamp this late, so the new mark counts all that will.
            mark, following = following, Mark(newest + 1)
        return Position(mark, following, newest, self.taken_bytes + size)


BEGINNING = Position(Mark(0), Mark(0), 0)


class Resumption:
    """Determines, piece by piece of the engine's output since ``position.since``, what is new.

    Attributes:
        position: after the pieces so far.
        gap: the engine no longer had the next output: its log was rotated while it was not read.
    """

    def __init__(self, position: Position) -> None:
        self.position = position
        self.gap = False
        self._known = position
        self._to_skip = position.mark.count

    def is_new(self, stamp_ns: int, size: int = 0) -> bool:
        """Whether this piece of *size* bytes is new; if so it counts as taken now."""
        known = self._known
        if stamp_ns < known.mark.since_ns:
            return False
        if self._to_skip:
            if self._to_skip == known.mark.count and stamp_ns != known.mark.first_ns:
                # The first piece of the mark is gone, so counting is useless; timestamps must do.
                self._to_skip = 0
                self.gap = True
            elif stamp_ns <= known.newest_ns:
                self._to_skip -= 1
                return False
            else:
                self._to_skip = 0
        if self.gap and stamp_ns <= known.newest_ns:
            return False
        self.position = self.position.taking(stamp_ns, size)
        return True

    def insert(self, size: int) -> None:
        """Count *size* bytes that are not the container's as part of the last piece."""
        self.position = replace(self.position, taken_bytes=self.position.taken_bytes + size)


def nanoseconds(timestamp: str) -> int:
    """Return an RFC 3339 timestamp in UTC, as written by the engine, in nanoseconds since 1970.

    Raises:
        ValueError: it is malformed.
    """
    found = _TIMESTAMP.match(timestamp)
    if found is None:
        raise ValueError(f"no RFC 3339 timestamp in UTC: {timestamp!r}")
    return _second(found[1]) * SECOND_NS + int((found[2] or "").ljust(9, "0"))


def day_of(stamp_ns: int) -> str:
    """Return the UTC day, such as ``20260131``."""
    return _day(stamp_ns // _DAY_NS)


@functools.lru_cache(maxsize=64)
def _second(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@functools.lru_cache(maxsize=8)
def _day(days: int) -> str:
    return (_EPOCH + timedelta(days=days)).strftime("%Y%m%d")
