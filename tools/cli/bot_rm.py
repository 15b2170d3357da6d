"""`runtime bot rm`: a bot goes, with its container."""

import click

from libs.core.service import BOT_RUNNER
from tools.bots.announce import Announcer
from tools.cli import interrupts
from tools.cli.bot_waiting import until_gone, wait_option
from tools.cli.connections import connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.output import output_option, show


@click.command()
@click.argument("bot_id", metavar="ID")
@wait_option
@output_option
def rm(bot_id: str, no_wait: bool, output: str) -> None:
    """Remove a bot; its container is stopped. Removing one that is not there is a success for the events, not here."""
    interrupts.run(_rm(bot_id, not no_wait))
    show(output, {"id": bot_id, "removed": True}, lambda: click.echo(f"{bot_id} is removed."))


async def _rm(bot_id: str, wait: bool) -> None:
    async with connected() as servers:
        entities = await servers.entities(BOT_RUNNER)
        known = await entities.get(bot_id)
        if known is None:
            raise Failure(
                f"there is no bot {bot_id!r}; `runtime bot ls` lists those that there are", ExitCode.NOT_FOUND
            )
        if servers.has_nats:
            await Announcer(await servers.jetstream(), BOT_RUNNER).deleted(bot_id, known.config)
        else:
            await entities.delete(bot_id)
        if wait:
            await until_gone(servers, BOT_RUNNER, bot_id)
