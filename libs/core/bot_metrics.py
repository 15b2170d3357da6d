"""The metrics that a bot prints: lines such as ``{"_metric": "pnl", "value": 12.3, "symbol": "BTC-USD"}``. Pure.

Its kind is ``pnl``. A field that is a number is a value: the field ``value`` has the name of the kind, and another one
the kind and its own name with a dot between them. Fields that are texts describe the values of their line; each
``symbol`` has series of its own.

Lines are hostile input: everything is bounded, and what is no metric is ignored.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from libs.core.hostile_json import Bounds, Refused, parse

MARK = b'"_metric"'
"""What a line contains that is a metric."""
LINE_BYTES = 4096
"""Longer lines are no metrics."""
MINUTES = 60
"""How many points a series has at most, one for each minute."""

_BOUNDS = Bounds(bytes=LINE_BYTES, depth=10, values=1000)
_NAME_CHARACTERS = 64
_TEXT_CHARACTERS = 100
_MOST_NUMBERS = 16
_MOST_TEXTS = 8
_KIND, _VALUE, _TIME, _SYMBOL = "_metric", "value", "timestamp", "symbol"
_STALE_SECONDS = 3600.0
_FORGOTTEN_SECONDS = 24 * 3600.0
_YEAR_10000 = 253_402_300_800.0


@dataclass(frozen=True)
class Sample:
    """One line: its values by name, and its texts by field. *at* are Unix seconds."""

    kind: str
    at: float
    values: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


def sample_in(line: bytes, at: float) -> Sample | None:
    """Return the metric in *line*, printed at *at*; None when it is none. Never raises."""
    if len(line) > LINE_BYTES or MARK not in line:
        return None
    parsed = parse(line.strip(), _BOUNDS)
    if isinstance(parsed, Refused) or not isinstance(parsed.value, dict):
        return None
    kind = parsed.value.get(_KIND)
    if not isinstance(kind, str) or not _is_name(kind):
        return None
    values: dict[str, float] = {}
    texts: dict[str, str] = {}
    for name, given in parsed.value.items():
        if name in (_KIND, _TIME) or not _is_name(name):
            continue
        number = _number(given)
        if number is not None:
            if len(values) < _MOST_NUMBERS:
                values[kind if name == _VALUE else f"{kind}.{name}"] = number
        elif isinstance(given, str | bool) and (len(texts) < _MOST_TEXTS or name == _SYMBOL):
            texts[name] = _text(given)
    return Sample(kind, at, values, texts)


@dataclass
class Series:
    """One name and symbol: the latest value and the last value of each minute.

    Attributes:
        value: None for a kind whose lines have no number.
        at: Unix seconds of the latest line.
        texts: the texts of the latest line.
        points: values by minute (Unix seconds divided by 60), the oldest first.
    """

    name: str
    kind: str
    value: float | None
    at: float
    texts: Mapping[str, str]
    points: dict[int, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its key in a book."""
        return _key(self.name, self.texts)

    def add(self, value: float | None, at: float, texts: Mapping[str, str]) -> None:
        """Add a later line, or the point of an earlier one."""
        minute, newest = int(at // 60), int(self.at // 60)
        if value is not None and (at >= self.at or minute not in self.points):
            self.points[minute] = value
            if minute < newest:
                self.points = dict(sorted(self.points.items()))
        if at >= self.at:
            self.value, self.at, self.texts = value, at, texts
        oldest = int(self.at // 60) - MINUTES
        while self.points and (first := next(iter(self.points))) <= oldest:
            del self.points[first]


class MetricBook:
    """The series of one bot by key, at most *most_names*.

    One without a line for an hour gives its place to a new one, and is forgotten a day after it.
    """

    def __init__(self, most_names: int) -> None:
        self._most_names = most_names
        self.series: dict[str, Series] = {}
        self.left_out = False
        """Whether there was one more than the limit allows."""

    @property
    def newest(self) -> float:
        """Unix seconds of the latest line; 0 without one."""
        return max((series.at for series in self.series.values()), default=0.0)

    def add(self, sample: Sample) -> None:
        """Add a line."""
        values: Mapping[str, float | None] = sample.values or {sample.kind: None}
        for name, value in values.items():
            key = _key(name, sample.texts)
            known = self.series.get(key)
            if known is not None:
                known.add(value, sample.at, sample.texts)
            elif self._has_place(sample.at):
                points = {int(sample.at // 60): value} if value is not None else {}
                self.series[key] = Series(name, sample.kind, value, sample.at, sample.texts, points)
            else:
                self.left_out = True

    def continue_from(self, earlier: "MetricBook") -> None:
        """Take over the series of an earlier worker, as far as there is a place for them."""
        for key, stored in earlier.series.items():
            known = self.series.get(key)
            if known is not None:
                for minute, value in known.points.items():
                    stored.add(value, minute * 60.0, known.texts)
                stored.add(known.value, known.at, known.texts)
            elif len(self.series) >= self._most_names:
                continue
            self.series[key] = stored
        self.left_out = self.left_out or earlier.left_out

    def values(self) -> dict[str, float]:
        """Return the latest values by name, and those of a name with several symbols by key: ``price[BTC-USD]``."""
        names = Counter(series.name for series in self.series.values())
        return {
            series.name if names[series.name] == 1 else key: series.value
            for key, series in self.series.items()
            if series.value is not None
        }

    def forget_old(self) -> None:
        """Remove the series that have had no line for a day, by the time of the latest line."""
        oldest = self.newest - _FORGOTTEN_SECONDS
        for key in [key for key, series in self.series.items() if series.at < oldest]:
            del self.series[key]
            self.left_out = False

    def to_document(self) -> dict[str, Any]:
        """Return its fields for the database. Names are values there: as keys they would need escaping."""
        return {
            "left_out": self.left_out,
            "series": [
                {
                    "name": series.name,
                    "kind": series.kind,
                    "value": series.value,
                    "at": series.at,
                    "texts": [[key, text] for key, text in series.texts.items()],
                    "points": [[minute, value] for minute, value in series.points.items()],
                }
                for _, series in sorted(self.series.items())
            ],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any], most_names: int) -> "MetricBook":
        """Return the stored book.

        Raises:
            KeyError, TypeError, ValueError: it has another form.
        """
        book = cls(most_names)
        book.left_out = bool(document.get("left_out"))
        for stored in document.get("series", ())[:most_names]:
            value = stored["value"]
            series = Series(
                str(stored["name"]),
                str(stored["kind"]),
                float(value) if value is not None else None,
                _moment(float(stored["at"])).timestamp(),
                {str(key): str(text) for key, text in stored["texts"]},
                {int(_moment(minute * 60.0).timestamp()) // 60: float(point) for minute, point in stored["points"]},
            )
            book.series[series.key] = series
        return book

    def _has_place(self, now: float) -> bool:
        if len(self.series) < self._most_names:
            return True
        stalest = min(self.series, key=lambda key: self.series[key].at)
        if now - self.series[stalest].at < _STALE_SECONDS:
            return False
        del self.series[stalest]
        return True


@dataclass(frozen=True)
class MetricPoint:
    """The last value of a minute, which begins at *at*."""

    at: datetime
    value: float


@dataclass(frozen=True)
class MetricView:
    """One metric of an entity; each symbol has its own.

    Attributes:
        name: the kind, or for another field than ``value`` the kind, a dot and the field.
        value: the latest value; null for a kind whose lines have no number.
        at: the time of the latest line.
        texts: the texts of that line by field, such as the symbol.
        points: the last hour before *at*, one value for each minute with one, the oldest first.
    """

    name: str
    kind: str
    value: float | None
    at: datetime
    texts: Mapping[str, str]
    points: Sequence[MetricPoint]


@dataclass(frozen=True)
class EntityMetrics:
    """The metrics that an entity has printed, by name. *left_out*: it printed more names than the limit."""

    id: str
    metrics: Sequence[MetricView]
    left_out: bool = False


def metrics_view(entity_id: str, book: MetricBook) -> EntityMetrics:
    """Return what is shown of *book*."""
    return EntityMetrics(entity_id, list(_views(book)), book.left_out)


def _views(book: MetricBook) -> Iterator[MetricView]:
    for _, series in sorted(book.series.items()):
        points = [MetricPoint(_moment(minute * 60.0), value) for minute, value in sorted(series.points.items())]
        yield MetricView(series.name, series.kind, series.value, _moment(series.at), series.texts, points)


def _key(name: str, texts: Mapping[str, str]) -> str:
    symbol = texts.get(_SYMBOL, "")
    return f"{name}[{symbol}]" if symbol else name


def _moment(seconds: float) -> datetime:
    """Return a time. Raises ValueError for one that a datetime cannot have."""
    if not 0 <= seconds < _YEAR_10000:
        raise ValueError(seconds)
    return datetime.fromtimestamp(seconds, UTC)


def _is_name(text: str) -> bool:
    """Whether *text* may be a name. Unprintable ones include lone surrogates, which no answer can contain."""
    return 0 < len(text) <= _NAME_CHARACTERS and text.isprintable() and not text.isspace()


def _number(value: object) -> float | None:
    """Return a finite number; a boolean is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(value: str | bool) -> str:
    text = str(value).lower() if isinstance(value, bool) else value
    return text[:_TEXT_CHARACTERS].encode("utf-8", "replace").decode()
