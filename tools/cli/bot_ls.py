"""`runtime bot ls`: the bots and how they are."""

from typing import Any

import click

from libs.core.service import BOT_RUNNER
from libs.core.store.entities import Entity
from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.output import output_option, show, table


@click.command()
@output_option
def ls(output: str) -> None:
    """List the bots with their states."""
    bots = interrupts.run(_ls())
    columns = ("id", "state", "segment", "worker", "restarts", "version", "runtime", "since", "detail")
    show(output, bots, lambda: table(columns, [[b[c] for c in columns] for b in bots], empty="There are no bots."))


async def _ls() -> list[dict[str, Any]]:
    async with connected() as servers:
        entities = await servers.entities(BOT_RUNNER)
        found: list[Entity] = []
        while page := await entities.page(after_id=found[-1].id if found else ""):
            found += page
        return [_row(entity) for entity in found]


def _row(entity: Entity) -> dict[str, Any]:
    status = entity.status
    state = status.get("state") or ("waiting" if entity.should_run else "off")
    return {
        "id": entity.id,
        "state": state,
        "detail": status.get("detail", ""),
        "segment": entity.segment_id,
        "worker": status.get("worker") or None,
        "container": status.get("container") or None,
        "restarts": status.get("restarts", 0),
        "version": entity.version,
        "runtime": entity.runtime,
        "revision": entity.revision,
        "since": status.get("since"),
        "held": str(entity.held.target) if entity.held is not None else None,
    }
