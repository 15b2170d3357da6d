"""Extract the metrics, plots and tables from a backtest's result in any of its known shapes. Pure.

A result is `{"metrics", "plots", "tables"}`, or the same below `results`. A plot is `{"title", "data", "layout",
"config"}` with the traces of Plotly as `data`, or that object as a JSON string; a plain series is one as well: a list
of numbers, of pairs, or of objects with a time and a value. A table is `{"title", "data"}` with a list of objects, or
has `columns` and `rows`.
"""

import base64
import binascii
import math
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from libs.core.hostile_json import Bounds, Parsed, parse

# A figure within a string was not checked when the result was stored.
_FIGURE = Bounds(bytes=64 * 1024 * 1024, depth=100, values=5_000_000)
# Plotly writes arrays of numbers as base64 of these types; others cannot be plotted.
_TYPES = {"f8": "d", "f4": "f", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I"}
_MOST = 1e300
_X = ("x", "date", "time", "timestamp", "t")
_Y = ("y", "value", "close", "equity", "v")


@dataclass(frozen=True)
class Series:
    """One line or one row of bars. None in *ys* is a gap."""

    name: str
    xs: Sequence[object]
    ys: Sequence[float | None]
    kind: str = "line"


@dataclass(frozen=True)
class Plot:
    """One figure."""

    title: str
    unit: str
    series: Sequence[Series]


@dataclass(frozen=True)
class Table:
    """One table; its rows may be shorter than its columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Findings:
    """The content of a result. *metrics* are flat: nested names are joined by dots."""

    metrics: Mapping[str, object]
    plots: Sequence[Plot]
    tables: Sequence[Table]


def findings(analysis: Mapping[str, Any]) -> Findings:
    """Return the content of *analysis*, without parts of unknown shape."""
    inner = analysis.get("results")
    source = inner if isinstance(inner, Mapping) else analysis
    metrics = source.get("metrics")
    named = metrics if isinstance(metrics, Mapping) else {k: v for k, v in source.items() if _is_plain(v)}
    plots = [_plot(name, value) for name, value in _named(source.get("plots"), "Plot")]
    tables = [_table(name, value) for name, value in _named(source.get("tables"), "Table")]
    return Findings(
        _flat(named), [plot for plot in plots if plot is not None], [table for table in tables if table is not None]
    )


def failure_of(analysis: Mapping[str, Any]) -> str | None:
    """Return why the backtest failed; None when *analysis* is what its `main` returned."""
    # A result may have a status of its own.
    ours = analysis.get("status") == "error" and set(analysis) == {"status", "message", "error"}
    older = analysis.get("status") == "failed" and set(analysis) == {"status", "error"}
    return str(analysis["error"]) if ours or older else None


def number_of(x: object) -> float | None:
    """Return the position of *x* on an axis: numbers unchanged, dates as Unix seconds; None for anything else."""
    if isinstance(x, str):
        try:
            moment = datetime.fromisoformat(x)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    return _number(x)


def is_date(x: object) -> bool:
    """Whether *x* is a date written as text."""
    return isinstance(x, str | date) and number_of(x) is not None


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _named(items: object, kind: str) -> list[tuple[str, Any]]:
    if isinstance(items, Mapping):
        return [(str(name), item) for name, item in items.items()]
    if isinstance(items, list):
        return [(f"{kind} {number}", item) for number, item in enumerate(items, start=1)]
    return []


def _plot(name: str, value: object) -> Plot | None:
    if isinstance(value, str):
        parsed = parse(value.encode("utf-8", "replace"), _FIGURE)
        value = parsed.value if isinstance(parsed, Parsed) and isinstance(parsed.value, Mapping) else None
    if not isinstance(value, Mapping):
        only = _simple(name, value)
        return Plot(name, "", [only]) if only is not None else None
    figure = value.get("figure", value)
    figure = figure if isinstance(figure, Mapping) else value
    layout = figure.get("layout")
    layout = layout if isinstance(layout, Mapping) else {}
    axis = layout.get("yaxis")
    title = _text(layout.get("title")) or _text(value.get("title")) or _text(value.get("name")) or name
    traces = next((figure[key] for key in ("data", "traces", "series") if key in figure), None)
    if isinstance(traces, Mapping):
        traces = [{"name": key, "data": series} for key, series in traces.items()]
    if not isinstance(traces, list):
        traces = [value]
    found = [_trace(f"series {number}", trace) for number, trace in enumerate(traces, start=1)]
    if not any(found):
        found = [_simple(title, traces)]
    series = [one for one in found if one is not None]
    unit = _text(axis.get("title")) if isinstance(axis, Mapping) else ""
    return Plot(title, unit, series) if series else None


def _trace(name: str, trace: object) -> Series | None:
    if not isinstance(trace, Mapping):
        return _simple(name, trace) if isinstance(trace, list) else None
    name = _text(trace.get("name")) or name
    ys = _listed(trace.get("y"))
    if not isinstance(ys, list):
        return next((_simple(name, trace[key]) for key in ("data", "values") if isinstance(trace.get(key), list)), None)
    xs = _listed(trace.get("x"))
    xs = xs if isinstance(xs, list) else list(range(len(ys)))
    kind = "bar" if trace.get("type") == "bar" else "markers" if trace.get("mode") == "markers" else "line"
    return Series(name, xs, [_number(y) for y in ys], kind)


def _listed(values: object) -> object:
    """Return *values*, decoded if they are an array in Plotly's packed form; unchanged if it is unreadable."""
    if not isinstance(values, Mapping) or not isinstance(packed := values.get("bdata"), str):
        return values
    kind = _TYPES.get(str(values.get("dtype")))
    try:
        numbers = array(kind or "", base64.b64decode(packed))
    except (ValueError, TypeError, binascii.Error):
        return values
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def _simple(name: str, points: object) -> Series | None:
    if not isinstance(points, list) or not points:
        return None
    xs: list[object] = []
    ys: list[float | None] = []
    for index, point in enumerate(points):
        x, y = _point(index, point)
        xs.append(x)
        ys.append(y)
    return Series(name, xs, ys) if any(y is not None for y in ys) else None


def _point(index: int, point: object) -> tuple[object, float | None]:
    if isinstance(point, Mapping):
        x = next((point[key] for key in _X if key in point), index)
        return x, next((_number(point[key]) for key in _Y if key in point), None)
    if isinstance(point, list) and len(point) == 2:
        return point[0], _number(point[1])
    return index, _number(point)


def _table(name: str, value: object) -> Table | None:
    title, rows, columns = name, value, None
    if isinstance(value, Mapping):
        title = _text(value.get("title")) or _text(value.get("name")) or name
        columns = value.get("columns") or value.get("headers")
        rows = value.get("rows", value.get("data"))
    if not isinstance(rows, list):
        return None
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows if isinstance(row, Mapping) for key in row))
    if not isinstance(columns, list):
        return None
    names = [_text(column) or str(column) for column in columns]
    cells = [[row.get(c) for c in names] if isinstance(row, Mapping) else row for row in rows]
    return Table(title, names, [row if isinstance(row, list) else [row] for row in cells])


def _text(value: object) -> str:
    """Return a title, which Plotly writes as text or as an object with one."""
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("text", "name", "label", "key") if key in value), "")
    return value if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    # The differences of two numbers must be finite too.
    return number if math.isfinite(number) and abs(number) < _MOST else None


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)
