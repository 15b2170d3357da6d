"""The progress of a sweep: an updated table at a terminal, otherwise a line for each backtest that ends."""

import contextlib
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from tools.backtests.sweep import FINISHED, Row
from tools.cli.tables import cell, value_text

if TYPE_CHECKING:  # slow to import, and needed only at a terminal
    from rich.console import RenderableType
    from rich.live import Live

_FRAME_LINES = 6
_LEAST_LINES = 4
_MOST_METRICS = 4


class SweepProgress:
    """Shown on standard error during the block; with *quiet* not at all."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live: Live | None = None
        self._printed: set[str] = set()

    def __enter__(self) -> "SweepProgress":
        if not self._quiet and sys.stderr.isatty() and sys.stdout.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def step(self, text: str) -> None:
        """Print *text*, without a terminal."""
        if not self._quiet and self._live is None:
            click.echo(click.style(f"· {text}", dim=True), err=True)

    def show(self, rows: Sequence[Row]) -> None:
        """Show the current states."""
        if self._live is not None:
            self._live.update(progress_table(rows, self._live.console.height))
        elif not self._quiet:
            for row in rows:
                if row.is_done and row.id not in self._printed:
                    self._printed.add(row.id)
                    click.echo(click.style(f"· {_line(row, len(self._printed), len(rows))}", dim=True), err=True)

    def leave(self, text: str) -> None:
        """Print *text* as the last lines, also when quiet."""
        self._stop()
        with contextlib.suppress(OSError):  # the terminal may be gone
            click.echo(text, err=True)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._quiet = True


def parameters_text(row: Row) -> str:
    """Return the parameters of a backtest, as `fast=5 slow=20`."""
    return " ".join(f"{cell(key)}={value_text(value)}" for key, value in row.point.parameters.items())


def _line(row: Row, done: int, total: int) -> str:
    took = f" in {row.seconds:.1f} s" if row.seconds is not None else ""
    metrics = list(row.metrics.items())[:_MOST_METRICS]
    found = " ".join(f"{cell(name)}={value_text(value)}" for name, value in metrics)
    text = found if row.state == FINISHED else cell(row.detail)
    return f"[{done}/{total}] {cell(row.id)} {row.state}{took}{f': {text}' if text else ''}"


def progress_table(rows: Sequence[Row], height: int) -> "RenderableType":
    """Return the open backtests and the last ones that ended, as many as fit."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    room = max(_LEAST_LINES, height - _FRAME_LINES)
    shown = [row for row in rows if row.is_open][:room]
    ended = sorted((row for row in rows if row.is_done), key=lambda row: (row.ended_at or 0.0))
    shown = [*ended[max(0, len(ended) - (room - len(shown))) :], *shown] if room > len(shown) else shown
    drawn = Table(box=None, pad_edge=False)
    for column in ("parameters", "state", "seconds", "metrics"):
        drawn.add_column(column, no_wrap=True, overflow="ellipsis")
    now = time.monotonic()
    for row in shown:
        seconds = row.seconds if row.seconds is not None else now - (row.began or now)
        found = [f"{cell(name)}={value_text(value)}" for name, value in list(row.metrics.items())[:_MOST_METRICS]]
        texts = (parameters_text(row), row.state, f"{seconds:.1f}", " ".join(found) or cell(row.detail))
        drawn.add_row(*map(Text, texts))
    done, failed = sum(row.is_done for row in rows), sum(row.is_done and row.state != FINISHED for row in rows)
    waiting = sum(row.began is None for row in rows)
    total = f"{done} of {len(rows)} done, {failed} failed, {waiting} not started"
    return Group(drawn, Text(total, style="dim"))
