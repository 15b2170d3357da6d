"""`runtime schedule next`: explain an expression and list its next times."""

import time
from datetime import UTC, datetime
from itertools import islice

import click

from services.bot_scheduler.cron import Every, parse, upcoming
from services.bot_scheduler.explain import explain
from tools.cli.local_time import local
from tools.cli.output import output_option, show, table


@click.command(name="next")
@click.argument("expression")
@click.option("-n", "--count", default=5, show_default=True, type=click.IntRange(1, 1000), help="Number of times.")
@click.option(
    "--timezone", help="Time zone of the expression, such as Europe/Berlin.  [UTC, or CRON_TZ=… in EXPRESSION]"
)
@output_option
def next_times(expression: str, count: int, timezone: str | None, output: str) -> None:
    """Explain EXPRESSION in words and show when it fires next, in its own zone and in this machine's.

    EXPRESSION has five fields, six with seconds first, or is a descriptor: "0 9 * * MON-FRI", "*/10 * * * * *",
    "@hourly", "@every 1h30m". Exit code 2 when the expression is invalid.
    """
    schedule = parse(expression, timezone)
    times = list(islice(upcoming(schedule, time.time()), count))
    data = {
        "expression": expression,
        "meaning": explain(schedule),
        "timezone": schedule.zone.key,
        "next": [datetime.fromtimestamp(instant, UTC) for instant in times],
    }

    def text() -> None:
        click.echo(data["meaning"])
        theirs = [
            datetime.fromtimestamp(instant, schedule.zone).strftime("%a %Y-%m-%d %H:%M:%S %Z") for instant in times
        ]
        rows = [[there, local(instant)] for there, instant in zip(theirs, times, strict=True)]
        table((schedule.zone.key, "here"), rows, empty="")
        if isinstance(schedule, Every):
            click.echo("Counted from now; a deployed schedule counts from its deployment.")

    show(output, data, text)
