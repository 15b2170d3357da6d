"""`runtime bot rm`: remove a bot and its container."""

from collections.abc import Sequence

import click

from libs.core.process.service import BOT_RUNNER
from libs.core.store.holds import HoldTarget
from tools.bots.announce import Announcer
from tools.bots.removal import Leftover
from tools.cli import interrupts
from tools.cli.bot_waiting import show_removed, until_gone, wait_option
from tools.cli.connections import connected
from tools.cli.entity_lookup import existing
from tools.cli.output import output_option


@click.command()
@click.argument("bot_id", metavar="ID")
@wait_option
@output_option
def rm(bot_id: str, no_wait: bool, output: str) -> None:
    """Remove a bot and stop its container. Fails when the bot does not exist, unlike a delete event."""
    show_removed(bot_id, interrupts.run(_rm(bot_id, not no_wait)), output)


async def _rm(bot_id: str, wait: bool) -> Sequence[Leftover]:
    async with connected() as servers:
        entities = await servers.entities(BOT_RUNNER)
        known = await existing(servers, BOT_RUNNER, bot_id)
        if servers.has_nats:
            await Announcer(await servers.jetstream(), BOT_RUNNER).deleted(bot_id, known.config)
        else:
            await entities.delete(bot_id)
        if not wait:
            return []
        left = await until_gone(servers, BOT_RUNNER, bot_id)
        # A stop belongs to the removed bot, not to a new one under its id. A kill stays.
        await entities.holds.resume(HoldTarget.entity(bot_id), graceful=True)
        return left
