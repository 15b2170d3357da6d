"""`runtime demo`: the README's first command."""

import sys
import time

import click
from rich.console import Console

from tools.cli import interrupts
from tools.cli.output import output_option, write_json
from tools.demo.demo import Demo, RunRow, as_json
from tools.demo.screen import Screen
from tools.dev.home import home


@click.command()
@output_option
def demo(output: str) -> None:
    """Run two sample bots from nothing, to see how it all works.

    Gets the Docker engine and the images ready, starts MongoDB, NATS and an S3 server, a master and two workers,
    deploys a Python and a Node bot, changes one, removes the other, and shows what they print and where they ran.
    Everything is stopped at the end, and at any time by Ctrl-C. With --output json the table is JSON, and progress
    goes to standard error.
    """
    begun = time.monotonic()
    stream = sys.stderr if output == "json" else sys.stdout
    console = Console(file=stream, highlight=False, soft_wrap=True, width=None if stream.isatty() else 120)
    with Screen(console) as screen:
        rows = interrupts.run(Demo(home() / "demo", screen).run())
        if output == "text":
            _show(screen, rows)
    if output == "json":
        write_json({"seconds": round(time.monotonic() - begun, 1), "runs": as_json(rows)})
    else:
        click.echo(f"Done in {time.monotonic() - begun:.0f} s. Next: `./runtime dev up`, then copy a folder of")
        click.echo("tools/samples, change it, and `./runtime bot deploy FOLDER`.")


def _show(screen: Screen, rows: list[RunRow]) -> None:
    columns = ("bot", "runtime", "worker", "segment", "container", "ran", "restarts", "status")
    screen.table(
        "What ran where",
        columns,
        [
            (
                row.bot,
                row.runtime,
                row.worker,
                str(row.segment),
                row.container,
                f"{row.seconds:.1f} s",
                str(row.restarts),
                row.status,
            )
            for row in rows
        ],
    )
