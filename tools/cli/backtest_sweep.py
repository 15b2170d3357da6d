"""The sweep of `runtime backtest run --sweep`: many backtests of one folder, and a table of their results."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from tools.author.checks import refuse_config
from tools.backtests.comparison_page import comparison_page
from tools.backtests.grid import Point, axes, points
from tools.backtests.sweep import FINISHED, Row, Sweep
from tools.bots.config_edit import assignments
from tools.bots.folder import BotFolder
from tools.cli import interrupts
from tools.cli.backtest_compare import read_compared
from tools.cli.backtest_show import write_page
from tools.cli.connections import connected
from tools.cli.dependency_options import built
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.output import cell, show, table
from tools.cli.sweep_options import SweepFlags
from tools.cli.sweep_progress import SweepProgress
from tools.cli.tables import value_text

_MOST_METRICS = 8


def run_sweep(
    folder: BotFolder,
    base_id: str,
    flags: SweepFlags,
    html_file: Path | None,
    output: str,
    *,
    is_new: bool,
    no_build: bool,
) -> int:
    """Run the sweep, show its table, and return the exit code: 1 when one backtest failed.

    Args:
        base_id: the beginning of all ids.
        html_file: for a page that compares the results; None for none.
        is_new: whether *base_id* is certain to be unused.
    """
    set_keys = [key for key, _ in assignments(flags.set_texts)]
    swept = axes(flags.sweep_texts, set_keys, flags.most)
    grid = points(base_id, folder.config, swept)
    for point in grid:
        refuse_config(folder, "backtest", point.config)
    is_new = is_new or flags.resume
    try:
        rows = interrupts.run(_run(folder, grid, flags, quiet=output == "json", is_new=is_new, no_build=no_build))
    except Failure as failure:
        if failure.code is ExitCode.INTERRUPTED:
            click.echo(f"to continue, repeat the command with --resume --id {shlex.quote(base_id)}", err=True)
        raise
    if html_file is not None:
        # Of a result that cannot be shown, the table has the reason.
        readable = [row.id for row in rows if row.state != FINISHED or not row.detail]
        write_page(
            html_file, comparison_page(interrupts.run(read_compared(readable))), "runtime backtest compare --html"
        )
    show(output, [row.facts() for row in rows], lambda: show_rows(rows))
    if html_file is not None and output != "json":
        click.echo(f"written: {html_file}")
    return ExitCode.OK if all(row.state == FINISHED for row in rows) else ExitCode.FAILED


def show_rows(rows: Sequence[Row]) -> None:
    """Print the table of all backtests, with as many metrics as fit."""
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))[:_MOST_METRICS]
    keys = list(rows[0].point.parameters)
    columns = ["id", "state", *keys, *(name.replace("_", " ") for name in names), "seconds", "detail"]
    cells = [
        [
            row.id,
            row.state,
            *(value_text(value) for value in row.point.parameters.values()),
            *(value_text(row.metrics.get(name)) for name in names),
            row.seconds,
            row.detail,
        ]
        for row in rows
    ]
    table(columns, cells, empty="", least=("seconds", *reversed(columns[2 + len(keys) : -2])))


async def _run(
    folder: BotFolder, grid: Sequence[Point], flags: SweepFlags, *, quiet: bool, is_new: bool, no_build: bool
) -> Sequence[Row]:
    folder, package = await built(folder, no_build=no_build)
    async with connected() as servers:
        with SweepProgress(quiet=quiet) as progress:
            sweep = Sweep(servers, folder, package, grid, jobs=flags.jobs, changed=progress.show)
            if not is_new and (existing := await sweep.existing()):
                raise Failure(
                    f"backtest {existing[0]!r} already exists ({len(existing)} of {len(grid)}), and each runs only "
                    f"once; give another --id, or --resume to continue an interrupted sweep"
                )
            if flags.resume:
                await sweep.continue_earlier()
            progress.step(f"{len(grid)} backtests, at most {flags.jobs} at once")
            try:
                await sweep.run()
            except BaseException:
                progress.leave(_left(sweep.rows))
                raise
        return sweep.rows


def _left(rows: Sequence[Row]) -> str:
    done, started = sum(row.is_done for row in rows), sum(row.began is not None for row in rows)
    lines = [f"{done} of {len(rows)} backtests are done, {len(rows) - started} were not started"]
    lines += [f"  cancelled: {cell(row.id)}" for row in rows if row.is_open and row.cancelled]
    for row in rows:
        if row.is_open and not row.cancelled:
            lines.append(f"  not cancelled, it may still run: {cell(row.id)}")
    return "\n".join(lines)
