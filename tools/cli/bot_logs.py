"""`runtime bot logs`: what a bot printed, and what it prints."""

import click

from libs.core.service import BOT_RUNNER, ServiceDefinition
from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.live_output import EntityOutput
from tools.cli.output import output_option, print_lines


@click.command()
@click.argument("bot_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on with what it prints, until Ctrl-C.")
@click.option(
    "-n", "--lines", default=100, show_default=True, type=click.IntRange(0, 10_000), help="Lines to begin with."
)
@output_option
def logs(bot_id: str, follow: bool, lines: int, output: str) -> None:
    """Show what a bot printed.

    It comes from the worker that runs the bot, on whatever machine: with -f within a second. Where no worker can be
    reached, the storage is read, which workers add to every half minute.
    """
    interrupts.run(show_output(BOT_RUNNER, bot_id, follow, lines, output))


async def show_output(service: ServiceDefinition, entity_id: str, follow: bool, lines: int, output: str) -> None:
    """Print the output of a bot or a schedule; with *follow* until it is cancelled.

    Raises:
        Failure: there is no such entity, and no output of one.
    """
    async with connected() as servers:
        read = EntityOutput(servers, service, entity_id, lambda text: click.echo(f"({text})", err=True))
        await print_lines(entity_id, read.lines(lines, follow=follow), output)
