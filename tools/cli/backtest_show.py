"""`runtime backtest show`: the result of a backtest, or the reason of its failure."""

from pathlib import Path
from typing import Any

import click

from services.backtest_runner.objects import analysis_key
from services.backtest_runner.parameters import Parameters
from tools.backtests.findings import findings
from tools.backtests.page import page
from tools.backtests.results import Known, known_of, output_of
from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.output import cell, output_option, table, write_json
from tools.cli.untrusted import harmless_lines

html_option = click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=lambda _context, _option, file: _in_a_folder(file),
    help="Write an HTML page with metrics, plots and tables that works offline.",
)
_MOST_ROWS = 20


@click.command()
@click.argument("backtest_id", metavar="ID")
@html_option
@output_option
def show(backtest_id: str, html_file: Path | None, output: str) -> int:
    """Show a backtest's metrics and tables. Exit code 1 when it failed."""
    known, printed = interrupts.run(_show(backtest_id))
    return show_result(known, printed, html_file, output)


async def _show(backtest_id: str) -> tuple[Known, str]:
    async with connected() as servers:
        known = await known_of(servers, backtest_id)
        if known is None:
            raise Failure(f"there is no backtest {backtest_id!r}, and no record of one", ExitCode.NOT_FOUND)
        return known, await output_of(servers, backtest_id) if known.entity is None else ""


def show_result(known: Known, printed: str, html_file: Path | None, output: str) -> int:
    """Show the result, write the page if requested, and return the exit code."""
    if known.refused is not None:
        key = analysis_key(known.id)
        raise Failure(f"cannot show the result: it {known.refused}; find it in the results bucket as {key}")
    parameters = known.parameters
    if html_file is not None and known.analysis is not None:
        text = page(known.id, known.analysis, printed, parameters)
        write_page(html_file, text, "runtime backtest show --html")
    if output == "json":
        data: dict[str, Any] = {"id": known.id, "state": known.state, "analysis": known.analysis, "runs": known.runs}
        if parameters is not None:
            data |= {"config": parameters.config, "unknown_parameters": parameters.unknown}
        write_json(data)
    else:
        _tell_people(known)
        if html_file is not None and known.analysis is not None:
            click.echo(f"written: {html_file}")
    return ExitCode.FAILED if known.state == "failed" else ExitCode.OK


def _in_a_folder(file: Path | None) -> Path | None:
    """Raise before a backtest is run if the page cannot be written."""
    if file is not None and not file.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(file.parent)!r}; make it, or name another file")
    return file


def write_page(file: Path, text: str, command: str) -> None:
    """Write a page; *command* can write it again.

    Raises:
        Failure: it cannot be written.
    """
    try:
        file.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise Failure(f"{file} cannot be written ({error.strerror}); retry with `{command}`") from error


def _tell_people(known: Known) -> None:
    last = known.runs[0] if known.runs else None
    took = f" in {last.duration_seconds:.1f} s" if last is not None and last.duration_seconds is not None else ""
    click.echo(f"{known.id} {known.shown.text}{took}")
    if known.entity is not None:
        return
    if known.parameters is not None:
        _tell_parameters(known.parameters)
    if known.analysis is None:
        return
    if known.state == "failed":
        click.echo(f"  {harmless_lines(known.failure or '')}")
        return
    found = findings(known.analysis)
    click.echo()
    table(("metric", "value"), [[name.replace("_", " "), _value(v)] for name, v in found.metrics.items()], empty="")
    for one in found.tables:
        click.echo()
        rows = [[_value(cell) for cell in row] for row in one.rows[:_MOST_ROWS]]
        width = len(one.columns)
        table(one.columns, [[*row, *[""] * width][:width] for row in rows], empty="no rows", title=one.title)
        if len(one.rows) > _MOST_ROWS:
            click.echo(f"... and {len(one.rows) - _MOST_ROWS} more rows (--output json prints all)")


def _tell_parameters(parameters: Parameters) -> None:
    if parameters.config:
        click.echo(
            "  config: " + ", ".join(f"{cell(key)}={cell(_value(value))}" for key, value in parameters.flat().items())
        )
    if parameters.warning:
        click.echo(f"  {cell(parameters.warning)}")


def _value(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)
