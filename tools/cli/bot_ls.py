"""`runtime bot ls`: the bots and how they are."""

from typing import Any

import click

from libs.core.process.service import BOT_RUNNER
from libs.core.store.shown_state import ShownState, shown
from tools.cli import interrupts
from tools.cli.bot_rows import bot_row
from tools.cli.connections import connected
from tools.cli.entity_states import stored_status_of, with_reason
from tools.cli.leader import missing_room
from tools.cli.output import output_option, show, table

_COLUMNS = ("id", "state", "segment", "worker", "restarts", "version", "runtime", "since", "detail")
_LEAST = ("runtime", "version", "segment", "restarts", "worker", "since")


@click.command()
@output_option
def ls(output: str) -> None:
    """List the bots with their states.

    A bot whose worker is gone is `unknown`, or `waiting` for a worker: a state counts only while a worker owns the
    bot's segment.
    """
    bots = interrupts.run(_ls())
    rows = [[with_reason(bot)[column] for column in _COLUMNS] for bot in bots]
    show(output, bots, lambda: table(_COLUMNS, rows, empty="There are no bots.", least=_LEAST))


async def _ls() -> list[dict[str, Any]]:
    async with connected() as servers:
        entities = await servers.entities(BOT_RUNNER)
        found = [entity async for entity in entities.all()]
        owners = await (await servers.owners(BOT_RUNNER)).all()
        rows = [bot_row(entity, shown(stored_status_of(entity), owners.get(entity.segment_id))) for entity in found]
        if any(row["state"] == ShownState.WAITING for row in rows):
            missing = await missing_room(servers, BOT_RUNNER)
            rows = [row | {"missing": missing.get(row["id"], "")} for row in rows]
        return rows
