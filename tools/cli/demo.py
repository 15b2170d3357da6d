"""`runtime demo`: the README's first command."""

import sys
import time
from itertools import zip_longest

import click
from rich.console import Console

from libs.core.run_record import RunRecord
from tools.cli import interrupts
from tools.cli.output import cell, output_option, write_json
from tools.demo.demo import Demo, Shown
from tools.demo.screen import Screen
from tools.dev.home import home


@click.command()
@output_option
def demo(output: str) -> None:
    """Run two sample bots, a backtest and a schedule on a temporary stack.

    Prepares the Docker engine and the images, and starts MongoDB, NATS, an S3 server, and the masters and workers of
    all three services. Deploys a Python and a Node bot, changes one and removes the other; meanwhile a backtest runs
    once, and a schedule every two seconds. Shows their output, the backtest's result, and the list of runs.
    Everything is stopped at the end, or by Ctrl-C. With --output json the results are printed as JSON, and progress
    goes to standard error.
    """
    begun = time.monotonic()
    stream = sys.stderr if output == "json" else sys.stdout
    console = Console(file=stream, highlight=False, soft_wrap=True, width=None if stream.isatty() else 120)
    with Screen(console) as screen:
        shown = interrupts.run(Demo(home() / "demo", screen).run())
        if output == "text":
            _show(screen, shown)
    if output == "json":
        write_json({"seconds": round(time.monotonic() - begun, 1), **shown.as_json()})
    else:
        click.echo()
        click.echo(f"Done in {time.monotonic() - begun:.0f} s. Next: `./runtime dev up`, then copy a folder of")
        click.echo("tools/samples, change it, and `./runtime bot deploy FOLDER`.")


def _show(screen: Screen, shown: Shown) -> None:
    metrics = [
        (name.replace("_", " "), f"{value:g}" if isinstance(value, float) else cell(value))
        for name, value in shown.backtest.metrics.items()
    ]
    # Two columns, so that the table fits a screen.
    half = (len(metrics) + 1) // 2
    pairs = zip_longest(metrics[:half], metrics[half:], fillvalue=("", ""))
    screen.table(
        "Result of the backtest", ("metric", "value", "metric", "value"), [(*left, *right) for left, right in pairs]
    )
    screen.table(
        "Runs of the schedule",
        ("due", "started after", "took", "outcome", "first line"),
        [_scheduled(run) for run in shown.scheduled],
    )
    screen.table(
        "All runs",
        ("service", "id", "worker", "container", "ran", "outcome"),
        [(r.service, r.id, r.worker, r.container, f"{r.seconds:.1f} s", r.outcome) for r in shown.rows],
    )


def _scheduled(run: RunRecord) -> tuple[str, ...]:
    due = run.scheduled_at or run.started_at
    return (
        due.astimezone().strftime("%H:%M:%S"),
        f"{(run.started_at - due).total_seconds():.2f} s",
        f"{run.duration_seconds or 0:.1f} s",
        run.reason or "",
        run.last_lines[0] if run.last_lines else "",
    )
