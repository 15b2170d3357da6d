"""`runtime backtest compare`: metrics of several backtests side by side, and their equity curves on one page."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from tools.backtests.comparison import Compared, differing_parameters, metric_names
from tools.backtests.comparison_page import comparison_page
from tools.backtests.results import known_of
from tools.cli import interrupts
from tools.cli.backtest_show import html_option, write_page
from tools.cli.connections import connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.output import cell, output_option, show, table
from tools.cli.tables import value_text

_GAP = 2


@click.command()
@click.argument("backtest_ids", metavar="ID ID...", nargs=-1, required=True)
@html_option
@output_option
def compare(backtest_ids: tuple[str, ...], html_file: Path | None, output: str) -> None:
    """Show the metrics of backtests side by side, with the parameters in which they differ.

    Exit code 4 when one does not exist.
    """
    ids = list(dict.fromkeys(backtest_ids))
    if len(ids) < 2:
        raise click.UsageError("name at least two backtests; `runtime backtest ls` lists them")
    compared = interrupts.run(read_compared(ids))
    if html_file is not None:
        write_page(html_file, comparison_page(compared), "runtime backtest compare --html")
    show(output, [_facts(one) for one in compared], lambda: _print(compared))
    if html_file is not None and output != "json":
        click.echo(f"written: {html_file}")


async def read_compared(ids: Sequence[str]) -> list[Compared]:
    """Read the results of these backtests.

    Raises:
        Failure: one does not exist, or its result cannot be shown.
    """
    found = []
    async with connected() as servers:
        # One after the other, since a result may be large.
        for backtest_id in ids:
            known = await known_of(servers, backtest_id)
            if known is None:
                raise Failure(f"there is no backtest {backtest_id!r}, and no record of one", ExitCode.NOT_FOUND)
            if known.refused is not None:
                raise Failure(f"cannot compare {backtest_id!r}: its result {known.refused}")
            found.append(Compared.of(known))
    return found


def _facts(one: Compared) -> dict[str, object]:
    return {
        "id": one.id,
        "state": one.state,
        "error": one.detail or None,
        "config": one.parameters,
        "metrics": one.metrics,
    }


def _print(compared: Sequence[Compared]) -> None:
    names, keys = metric_names(compared), differing_parameters(compared)
    rows = [["state", *(one.state for one in compared)]]
    rows += [[key, *(value_text(one.parameters.get(key)) for one in compared)] for key in keys]
    rows += [[name.replace("_", " "), *(value_text(one.metrics.get(name)) for one in compared)] for name in names]
    header = ["metric", *(one.id for one in compared)]
    if sys.stdout.isatty() and _width(header, rows) > shutil.get_terminal_size().columns:
        # With as many backtests as do not fit beside each other, each gets a row.
        header, *rows = [list(column) for column in zip(header, *rows, strict=True)]
        header[0] = "id"
    table(header, rows, empty="")
    for one in compared:
        if one.detail:
            click.echo(f"{cell(one.id)}: {cell(one.detail)}")


def _width(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    columns = zip(header, *rows, strict=True)
    return sum(max(len(cell(text)) for text in column) + _GAP for column in columns)
