"""`runtime schedule logs`: what a schedule's runs printed, and what they print."""

import click

from libs.core.service import BOT_SCHEDULER
from tools.cli import interrupts
from tools.cli.bot_logs import show_output
from tools.cli.output import output_option


@click.command()
@click.argument("schedule_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on with what its runs print, until Ctrl-C.")
@click.option(
    "-n", "--lines", default=100, show_default=True, type=click.IntRange(0, 10_000), help="Lines to begin with."
)
@output_option
def logs(schedule_id: str, follow: bool, lines: int, output: str) -> None:
    """Show what a schedule's runs printed, one run after the other.

    It comes from the worker that runs them, on whatever machine: with -f within a second. Where no worker can be
    reached, the storage is read, which workers add to after each run and every half minute.
    """
    interrupts.run(show_output(BOT_SCHEDULER, schedule_id, follow, lines, output))
