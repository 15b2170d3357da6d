"""Output of results: as text for people, or as JSON for programs (`--output json`)."""

import dataclasses
import json
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from enum import Enum
from typing import Any

import click

from tools.cli.tables import cell as cell
from tools.cli.tables import table as table
from tools.cli.untrusted import harmless, harmless_json

raw_option = click.option("--raw", is_flag=True, help="Print lines as they are, with their effects on the terminal.")

output_option = click.option(
    "--output",
    "output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Output format: text for people, json for programs.",
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
    click.echo(harmless_json(json.dumps(data, default=_plain, ensure_ascii=False, indent=indent)))


async def print_lines(entity_id: str, lines: AsyncGenerator[str, None], output: str, *, raw: bool = False) -> None:
    """Print *lines* of a bot as they arrive, until they end: with escapes removed, or *raw*, or as JSON.

    Args:
        output: with ``json``, each line is printed as a separate object.
    """
    async with aclosing(lines) as printed:
        async for line in printed:
            if output == "json":
                write_json({"id": entity_id, "line": line})
            else:
                click.echo(line if raw else harmless(line), color=raw)
            sys.stdout.flush()


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
