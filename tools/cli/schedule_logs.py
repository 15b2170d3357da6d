"""`runtime schedule logs`: the output of a schedule's runs, stored and live."""

from typing import Any

import click

from libs.core.process.service import BOT_SCHEDULER
from tools.cli import interrupts
from tools.cli.bot_logs import log_options, show_output


@click.command()
@click.argument("schedule_id", metavar="ID")
@log_options
def logs(schedule_id: str, **options: Any) -> None:
    """Show the output of a schedule's runs, one run after the other.

    It comes from the worker that runs them, on any machine; with -f within a second. If no worker can be
    reached, it comes from the storage, up to half a minute late. The start and the end of
    each run are marked.
    """
    interrupts.run(show_output(BOT_SCHEDULER, schedule_id, **options))
