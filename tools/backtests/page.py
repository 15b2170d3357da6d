"""An HTML page with a backtest's result, without network access or scripts: plots are SVG. Pure."""

import html
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from services.backtest_runner.parameters import Parameters
from tools.backtests.curves import kept_points
from tools.backtests.findings import Plot, Series, Table, failure_of, findings, is_date, number_of

_COLOURS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea", "#dc2626", "#0891b2", "#ca8a04", "#64748b")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 960, 320, 70, 28, 12
_MOST_ROWS = 5000
_MOST_CHARACTERS = 200_000
_STYLE = """
:root{color-scheme:light dark;--fg:#0f172a;--bg:#fff;--dim:#64748b;--line:#e2e8f0}
@media(prefers-color-scheme:dark){:root{--fg:#e2e8f0;--bg:#0f172a;--dim:#94a3b8;--line:#334155}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:1000px;margin:2rem auto;
padding:0 1rem}h1{margin-bottom:0}.dim{color:var(--dim)}.failed{color:#dc2626}
.metrics{display:grid;grid-template-columns:repeat(auto-fill,minmax(180px,1fr));gap:.6rem;margin:1.5rem 0}
.metrics div{border:1px solid var(--line);border-radius:8px;padding:.6rem .8rem}
.metrics b{display:block;font-size:1.2em}
svg{width:100%;height:auto}svg text{fill:var(--dim);font-size:12px}svg .grid{stroke:var(--line)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}th,td{padding:.3rem .6rem;text-align:right;
border-bottom:1px solid var(--line)}th:first-child,td:first-child{text-align:left}pre{overflow:auto;max-height:30em}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .3em 0 1em}
"""


def page(
    backtest_id: str,
    analysis: Mapping[str, Any],
    output: str,
    parameters: Parameters | None = None,
) -> str:
    """Return the whole page. All content is escaped.

    Args:
        parameters: None when they are unknown.
    """
    found = findings(analysis)
    parts = [f"<h1>{safe(backtest_id)}</h1>", '<p class="dim">Backtest</p>']
    failure = failure_of(analysis)
    if failure is not None:
        parts.append(f'<p class="failed"><b>Failed:</b> {safe(failure)}</p>')
    else:
        cards = [
            f"<div>{safe(_label(name))}<b>{safe(_value(value))}</b></div>" for name, value in found.metrics.items()
        ]
        parts.append(f'<section class="metrics">{"".join(cards)}</section>')
    if parameters is not None and parameters.warning:
        parts.append(f'<p class="failed">Config: {safe(parameters.warning)}</p>')
    parts += [figure(plot) for plot in found.plots]
    parts += [table_section(table) for table in found.tables]
    if parameters is not None and parameters.config:
        rows = [list(one) for one in parameters.flat().items()]
        parts.append(table_section(Table("Config", ("parameter", "value"), rows)))
    if not (found.metrics or found.plots or found.tables):
        parts.append(f"<pre>{safe(_shortened(json.dumps(analysis, indent=2, ensure_ascii=False)))}</pre>")
    parts.append(f"<details><summary>Output</summary><pre>{safe(output)}</pre></details>")
    return document(backtest_id, parts)


def document(title: str, parts: Sequence[str]) -> str:
    """Return a whole page of *parts*, which are HTML; the *title* is escaped."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{safe(title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def figure(plot: Plot) -> str:
    """Return a plot with its legend as HTML."""
    keys = "".join(
        f'<span class="key" style="background:{_colour(number)}"></span>{safe(series.name)}'
        for number, series in enumerate(plot.series)
    )
    unit = f' <span class="dim">{safe(plot.unit)}</span>' if plot.unit else ""
    return f"<section><h2>{safe(plot.title)}{unit}</h2><div>{keys}</div>{_svg(plot)}</section>"


def _svg(plot: Plot) -> str:
    placed = [_placed(series) for series in plot.series]
    points = [(x, y) for line in placed for x, y in line if y is not None]
    if not points:
        return '<p class="dim">No data to plot.</p>'
    dated = any(is_date(x) for series in plot.series for x in series.xs[:1])
    left, right = _span([x for x, _ in points])
    bars = any(series.kind == "bar" for series in plot.series)
    low, high = _span([y for _, y in points] + ([0.0] if bars else []))

    def to_x(x: float) -> float:
        return _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - 10)

    def to_y(y: float) -> float:
        return _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for step in range(5):
        y = low + (high - low) * step / 4
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{to_y(y):.1f}" y2="{to_y(y):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{to_y(y) + 4:.1f}" text-anchor="end">{_short(y)}</text>')
        x = left + (right - left) * step / 4
        anchor = "start" if step == 0 else "end" if step == 4 else "middle"
        label = _day(x) if dated else _short(x)
        parts.append(f'<text x="{to_x(x):.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{label}</text>')
    for number, (series, line) in enumerate(zip(plot.series, placed, strict=True)):
        drawn = [(to_x(x), to_y(y) if y is not None else None) for x, y in line]
        parts.append(_drawn(series.kind, drawn, _colour(number), to_y(max(low, min(high, 0.0)))))
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{safe(plot.title)}">{"".join(parts)}</svg>'


def _drawn(kind: str, points: Sequence[tuple[float, float | None]], colour: str, zero: float) -> str:
    if kind == "markers":
        return "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points if y is not None)
    if kind == "bar":
        width = max(1.0, (_WIDTH - _LEFT) / max(1, len(points)) * 0.7)
        return "".join(
            f'<rect x="{x - width / 2:.1f}" y="{min(y, zero):.1f}" width="{width:.1f}" height="{abs(y - zero):.1f}" '
            f'fill="{colour}"/>'
            for x, y in points
            if y is not None
        )
    path, pen_is_down = [], False
    for x, y in points:
        if y is not None:
            path.append(f"{'L' if pen_is_down else 'M'}{x:.1f} {y:.1f}")
        pen_is_down = y is not None
    return f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round"/>'


def _placed(series: Series) -> list[tuple[float, float | None]]:
    """Return its points as numbers, reduced to the resolution of a screen."""
    numbers = [number_of(x) for x in series.xs[: len(series.ys)]]
    if any(x is None for x in numbers):
        numbers = [float(index) for index in range(len(numbers))]
    points = [(x, y) for x, y in zip(numbers, series.ys, strict=False) if x is not None]
    return [points[index] for index in kept_points([y for _, y in points])]


def table_section(table: Table) -> str:
    """Return a table as HTML."""
    head = "".join(f"<th>{safe(column)}</th>" for column in table.columns)
    rows = table.rows[:_MOST_ROWS]
    body = "".join("<tr>" + "".join(f"<td>{safe(_value(c))}</td>" for c in row) + "</tr>" for row in rows)
    left_out = len(table.rows) - len(rows)
    more = f'<p class="dim">... and {left_out:,} rows more</p>' if left_out else ""
    return (
        f'<section><h2>{safe(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{more}</section>"
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    # Above 2^53, one more is the same number.
    margin = max(1.0, abs(low) / 100)
    return (low, high) if high > low else (low - margin, high + margin)


def _day(x: float) -> str:
    """Return the day of *x*, in Unix seconds; the number if it is out of range."""
    try:
        return f"{datetime.fromtimestamp(x, UTC):%Y-%m-%d}"
    except (ValueError, OverflowError):
        return _short(x)


def _label(name: str) -> str:
    return name.replace("_", " ")


def _value(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1000 else _plain(value)


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}\n..."


def _plain(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def _short(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def safe(text: object) -> str:
    """Return *text* escaped for HTML; nothing for None."""
    return html.escape("" if text is None else str(text))
