"""How results are shown: as text for people, or as JSON for programs (`--output json`)."""

import dataclasses
import json
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from enum import Enum
from typing import Any

import click

output_option = click.option(
    "--output",
    "output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="text for people, json for programs.",
)


def show(output: str, data: object, text: Callable[[], None]) -> None:
    """Print *data* as JSON, or call *text* to print it for people."""
    if output == "json":
        write_json(data)
    else:
        text()


def write_json(data: object) -> None:
    """Print *data* as JSON: indented at a terminal, one line otherwise."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(data, default=_plain, ensure_ascii=False, indent=indent))


async def print_lines(entity_id: str, lines: AsyncGenerator[str, None], output: str) -> None:
    """Print *lines* as they come, until they end: as they are, or each in a JSON object when *output* is json."""
    async with aclosing(lines) as printed:
        async for line in printed:
            if output == "json":
                write_json({"id": entity_id, "line": line})
            else:
                click.echo(line)
            sys.stdout.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str, title: str | None = None) -> None:
    """Print rows under their columns; *empty* when there are none."""
    if not rows:
        click.echo(empty)
        return
    # Slow to import, and not needed for JSON.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        shown.add_row(*(Text(cell(value)) for value in row))
    # As wide as the terminal; in a file or a pipe nothing is cut.
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(shown)


def cell(value: object) -> str:
    """A value as people read it: nothing for None, times in UTC to the second."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.1f}"
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)
