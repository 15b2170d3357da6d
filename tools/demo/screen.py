"""The output of the demonstration: steps with progress, the bots' output, a table. For terminals and files."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

_COLORS = ("cyan", "magenta", "green", "yellow")


@dataclass
class Step:
    """A step in progress."""

    text: str
    detail: str = ""


class Screen:
    """Prints to *console*. Use as a context manager; steps may overlap."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._colors: dict[str, str] = {}
        self._progress: Progress | None = None
        if console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._progress = Progress(*columns, console=console, transient=True)

    def __enter__(self) -> "Screen":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator["Reporter"]:
        """Show that *text* is in progress during the block, then its duration."""
        begun = time.monotonic()
        task = self._progress.add_task(text, total=None) if self._progress is not None else None
        if task is None:
            self._console.print(Text(f"... {text}"))
        reporter = Reporter(self, text, task)
        outcome = "failed"
        try:
            yield reporter
            outcome = "done"
        finally:
            if self._progress is not None and task is not None:
                self._progress.remove_task(task)
            sign, style = ("✓", "green") if outcome == "done" else ("✗", "red")
            took = f"({time.monotonic() - begun:.1f} s)"
            self._console.print(Text.assemble((sign, style), f" {text} ", (took, "dim")))

    def describe(self, task: int | None, text: str, detail: str) -> None:
        """Show details of a running step."""
        if self._progress is not None and task is not None:
            self._progress.update(task, description=f"{text}: {detail}".replace("[", r"\["))  # type: ignore[arg-type]
        else:
            self._console.print(Text(f"    {detail}"))

    def heading(self, text: str) -> None:
        """Print a heading."""
        self._console.print()
        self._console.print(Text(text, style="bold"))

    def line(self, source: str, text: str) -> None:
        """Print one line of a bot."""
        color = self._colors.setdefault(source, _COLORS[len(self._colors) % len(_COLORS)])
        shown = "".join(character if character.isprintable() else "�" for character in text)
        self._console.print(Text.assemble((f"{source:>16} │ ", color), shown))

    def table(self, title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """Print the final summary."""
        table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
        # Fits 80 characters.
        table.box, table.padding, table.pad_edge = None, (0, 1, 0, 0), False
        for column in columns:
            table.add_column(column, no_wrap=True)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._console.print()
        self._console.print(table)


class Reporter:
    """Reports details of one step; passed to the code of the step."""

    def __init__(self, screen: Screen, text: str, task: int | None) -> None:
        self._screen = screen
        self._text = text
        self._task = task

    def __call__(self, detail: str) -> None:
        self._screen.describe(self._task, self._text, detail)
