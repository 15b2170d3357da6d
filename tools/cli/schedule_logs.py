"""`runtime schedule logs`: what a schedule's runs printed, and what they print."""

from typing import Any

import click

from libs.core.process.service import BOT_SCHEDULER
from tools.cli import interrupts
from tools.cli.bot_logs import log_options, show_output


@click.command()
@click.argument("schedule_id", metavar="ID")
@log_options
def logs(schedule_id: str, **options: Any) -> None:
    """Show what a schedule's runs printed, one run after the other.

    It comes from the worker that runs them, on whatever machine: with -f within a second. Where no worker can be
    reached, the storage is read, which workers add to after each run and every half minute. The start and the end of
    each run are marked.
    """
    interrupts.run(show_output(BOT_SCHEDULER, schedule_id, **options))
