"""Tables for terminals: as wide as the terminal, omitting columns instead of shortening ids.

In a file or a pipe a table is as wide as necessary, with all columns.
"""

import shutil
import sys
from collections.abc import Sequence
from datetime import datetime

import click

_WHOLE = ("id", "state")
_GAP = 2
_LEAST_TEXT = 20


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    empty: str,
    title: str | None = None,
    text: Sequence[str] = ("detail", "message", "reason"),
    least: Sequence[str] = (),
) -> None:
    """Print rows under their columns; *empty* without rows.

    Args:
        text: columns that may be shortened if the terminal is too narrow.
        least: columns in the order in which they are omitted. Unnamed ones follow, the last one
            first, and shortened text at the end. The first column, an id and a state are never omitted.
    """
    if not rows:
        click.echo(empty)
        return
    columns = [cell(name) for name in columns]
    cells = [[cell(value) for value in row] for row in rows]
    widths = [max(map(_width, (name, *column))) for name, *column in zip(columns, *cells, strict=True)]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    layout = fitted(columns, widths, limit, text, least)
    if title is not None:
        click.echo(click.style(cell(title), italic=True))
    click.echo(click.style(_line(columns, layout), bold=True))
    for row in cells:
        click.echo(_line(row, layout))
    if left_out := [name.strip() for index, name in enumerate(columns) if index not in dict(layout)]:
        hint = f"columns omitted, terminal too narrow: {', '.join(left_out)} (--output json prints all)"
        click.echo(click.style(hint, dim=True), err=True)


def fitted(
    columns: Sequence[str], widths: Sequence[int], limit: int | None, text: Sequence[str], least: Sequence[str]
) -> list[tuple[int, int]]:
    """Return the columns that fit *limit*, each by its index and with its width; None: no limit."""
    shown = list(range(len(columns)))
    if limit is None:
        return [(index, widths[index]) for index in shown]

    def needed(index: int) -> int:
        return min(widths[index], _LEAST_TEXT) if columns[index] in text else widths[index]

    def total() -> int:
        return sum(map(needed, shown)) + _GAP * (len(shown) - 1)

    for index in _by_importance(columns, text, least):
        if total() <= limit:
            break
        shown.remove(index)
    spare = max(0, limit - total())
    layout = []
    for index in shown:
        width = min(widths[index], needed(index) + spare)
        spare -= width - needed(index)
        layout.append((index, width))
    return layout


def _by_importance(columns: Sequence[str], text: Sequence[str], least: Sequence[str]) -> list[int]:
    """Return the columns that may be omitted, the least important one first."""
    may_go = [index for index in range(1, len(columns)) if columns[index] not in _WHOLE]
    named = [columns.index(name) for name in least if name in columns]
    others = [index for index in reversed(may_go) if index not in named]
    others.sort(key=lambda index: columns[index] in text)
    return [index for index in named if index in may_go] + others


def cell(value: object) -> str:
    """Return a value for display: nothing for None, times in UTC to the second."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.1f}"
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def value_text(value: object) -> str:
    """Return a parameter or metric for display."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else cell(value)


def _line(cells: Sequence[str], layout: Sequence[tuple[int, int]]) -> str:
    parts = [_fitting(cells[index], width) for index, width in layout]
    return (" " * _GAP).join(parts).rstrip()


def _fitting(text: str, width: int) -> str:
    """Return *text* in exactly *width* columns of a terminal."""
    if _width(text) > width:
        text = _cut(text, width - 1) + "…"
    return text + " " * (width - _width(text))


def _cut(text: str, width: int) -> str:
    from rich.cells import set_cell_size

    return set_cell_size(text, width)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # slow to import, and rarely needed

    return cell_len(text)
