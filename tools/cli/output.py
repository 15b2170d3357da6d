"""How results are shown: as text for people, or as JSON for programs (`--output json`)."""

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
