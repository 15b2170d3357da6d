"""Lines of a bot's log with time, run and stream, and a reader's cursor. Pure.

A run's output is counted in bytes from its beginning in every source, so run and count identify a line's position:
in a worker's spool, in its live output and in the storage. A reader continues after its position,
from whichever worker or object it reads next.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

from libs.docker_runner.logs.spans import RUNTIME, STREAMS, Span

LOOK_BACK = timedelta(minutes=10)
"""Maximum age of a line that is shown late, relative to the newest shown line."""

_RUNS = 8
_MOST_LINE_BYTES = 1024 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Line:
    """One line without its end.

    Attributes:
        time_us: when its first bytes were written, in microseconds since 1970; 0 when unknown.
        run: the run's id; empty when unknown.
        end: size of the run's output up to the line's end, in bytes; 0 when unknown.
        stream: ``stdout``, ``stderr``, ``runtime`` for a note of the runtime, or empty when unknown.
    """

    text: str
    time_us: int = 0
    run: str = ""
    end: int = 0
    stream: str = ""

    @property
    def time(self) -> datetime | None:
        """When it was written; None when unknown."""
        return _EPOCH + timedelta(microseconds=self.time_us) if self.time_us else None


def as_json(lines: Iterable[Line]) -> bytes:
    """Return each line as a JSON object on its own line, with null for unknown values."""
    return b"".join(
        json.dumps(
            {
                "time": rfc3339(line.time) if line.time is not None else None,
                "run": line.run or None,
                "stream": line.stream or None,
                "line": line.text,
                "end": line.end if line.run else None,
            }
        ).encode()
        + b"\n"
        for line in lines
    )


def from_json(record: str | bytes) -> Line:
    """Parse a line of :func:`as_json`. Raises ValueError."""
    fields = json.loads(record)
    if not isinstance(fields, dict) or not isinstance(fields.get("line"), str):
        raise ValueError(record[:100])  # noqa: TRY004 - it is the text that is wrong
    time_us = microseconds(datetime.fromisoformat(fields["time"])) if fields.get("time") else 0
    return Line(fields["line"], time_us, fields.get("run") or "", fields.get("end") or 0, fields.get("stream") or "")


def as_text(lines: Iterable[Line], *, timestamps: bool) -> bytes:
    """Return the lines as text, with *timestamps* each after its time, or a dash when unknown."""
    return b"".join(
        f"{stamp(line) + ' ' if timestamps else ''}{line.text}\n".encode(errors="replace") for line in lines
    )


def stamp(line: Line) -> str:
    """Return the line's time as text; a dash when unknown."""
    return rfc3339(line.time) if line.time is not None else "-"


def rfc3339(moment: datetime) -> str:
    """Format the time in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def microseconds(moment: datetime) -> int:
    """Return microseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


class LineCutter:
    """Splits pieces of output into lines."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._bytes = 0
        self._first: Span | None = None
        self._last: Span | None = None

    def add(self, payload: bytes, spans: Iterable[Span]) -> Iterator[Line]:
        """Return the lines that end in *payload*; spans cover it exactly."""
        at = 0
        for span in spans:
            last = self._last
            if last is not None and (span.run != last.run or (span.run and span.offset != last.offset)):
                yield from self.rest()
            end = at + span.length
            begin = at
            while begin < end:
                newline = payload.find(b"\n", begin, end)
                stop = end if newline < 0 else newline + 1
                self._take(payload[begin:stop], span, span.offset + (0 if span.stream == RUNTIME else stop - at))
                if newline >= 0 or self._bytes > _MOST_LINE_BYTES:
                    yield from self.rest()
                begin = stop
            at = end

    def rest(self) -> Iterator[Line]:
        """Return the unfinished line."""
        if self._first is None or self._last is None:
            return
        text = b"".join(self._parts).decode(errors="replace").removesuffix("\n").removesuffix("\r")
        first, last = self._first, self._last
        self._parts, self._bytes, self._first, self._last = [], 0, None, None
        yield Line(text, first.time_us, first.run, last.offset, STREAMS[first.stream])

    def _take(self, part: bytes, span: Span, end: int) -> None:
        self._parts.append(part)
        self._bytes += len(part)
        self._first = self._first or span
        self._last = Span(span.run, end, 0, span.time_us, span.stream)


class Tail:
    """The last of the lines that it is given: at most *lines*, and as few as have *size* characters or more.

    A bot chooses how long its lines are, so that a number alone bounds nothing.
    """

    def __init__(self, lines: int, size: int) -> None:
        self._most_lines = lines
        self._most_size = size
        self._lines: deque[Line] = deque()
        self._size = 0

    def extend(self, lines: Iterable[Line]) -> None:
        """Add *lines*, and drop the first ones that are too many."""
        for line in lines:
            self._lines.append(line)
            self._size += len(line.text)
            while self._lines and (len(self._lines) > self._most_lines or self._is_more_than_enough):
                self._size -= len(self._lines.popleft().text)

    @property
    def lines(self) -> Sequence[Line]:
        """The kept lines."""
        return self._lines

    @property
    def _is_more_than_enough(self) -> bool:
        return self._size - len(self._lines[0].text) >= self._most_size


@dataclass
class Cursor:
    """How far a reader has come.

    Attributes:
        runs: up to which byte the output of each of the latest runs was shown.
        before_us: lines of other runs up to that time were shown, or are not wanted.
        newest_us: the time of the newest shown line.
    """

    before_us: int = 0
    newest_us: int = 0
    runs: dict[str, int] = field(default_factory=dict)
    _times: dict[str, int] = field(default_factory=dict, repr=False)

    def is_new(self, line: Line) -> bool:
        """Whether *line* has not been shown; a line of an unknown run counts as new."""
        if not line.run:
            return False
        if line.run in self.runs:
            # A note precedes the line that begins at its position.
            return line.end + (line.stream == STREAMS[RUNTIME]) > self.runs[line.run]
        return line.time_us > self.before_us

    def has_all(self, spans: Sequence[Span]) -> bool:
        """Whether all lines of *spans* are known to have been shown."""
        return all(span.run in self.runs and span.end <= self.runs[span.run] for span in spans)

    def show(self, line: Line) -> None:
        """Mark *line* as shown."""
        if not line.run:
            return
        self.runs[line.run] = max(line.end, self.runs.pop(line.run, 0))
        self.newest_us = max(self.newest_us, line.time_us)
        self._times[line.run] = max(line.time_us, self._times.get(line.run, 0))
        while len(self.runs) > _RUNS:
            oldest = next(iter(self.runs))
            del self.runs[oldest]
            self.before_us = max(self.before_us, self._times.pop(oldest, 0))

    @property
    def since_us(self) -> int:
        """The time from which lines may be new."""
        return max(0, self.newest_us - int(LOOK_BACK.total_seconds()) * 1_000_000)

    def __str__(self) -> str:
        runs = [f"{quote(run, safe='')}:{end}:{self._times.get(run, 0)}" for run, end in self.runs.items()]
        return ";".join([f"{self.before_us}:{self.newest_us}", *runs])

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Parse a cursor. Raises ValueError."""
        if not text.isascii():
            raise ValueError(text)
        first, *runs = text.split(";")
        before, newest = first.split(":")
        cursor = cls(_number(before), _number(newest))
        for entry in runs[-_RUNS:]:
            quoted, end, time_us = entry.split(":")
            run = unquote(quoted)
            cursor.runs[run], cursor._times[run] = _number(end), _number(time_us)
        return cursor


def _number(text: str) -> int:
    if not text.isdigit() or len(text) > 19:
        raise ValueError(text)
    return int(text)


@dataclass(frozen=True)
class Wanted:
    """A selection of lines.

    Attributes:
        tail: only the last lines, that many; None for all.
        since_us, until_us: only lines in this range, inclusive. Lines of an unknown time are then skipped.
        run: only lines of this run; empty for all.
        after: only lines after this cursor; *tail* is then ignored.
    """

    tail: int | None = None
    since_us: int | None = None
    until_us: int | None = None
    run: str = ""
    after: Cursor | None = None

    def has(self, line: Line) -> bool:
        """Whether *line* is selected, ignoring *after*."""
        if self.run and line.run != self.run:
            return False
        if self.since_us is not None and line.time_us < self.since_us:
            return False
        return self.until_us is None or 0 < line.time_us <= self.until_us

    @property
    def from_us(self) -> int:
        """The time from which output has to be read; 0 for all output."""
        return max(self.since_us or 0, self.after.since_us if self.after is not None else 0)
