"""`runtime bot history`: what was deployed, when and by whom, and what came of it."""

from datetime import UTC, datetime
from typing import Any

import click

from libs.core.process.service import BOT_RUNNER
from libs.core.store.revisions import RevisionStore
from libs.core.store.shown_state import shown
from tools.bots.revisions import described, row_of
from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.entity_lookup import existing
from tools.cli.entity_states import stored_status_of
from tools.cli.local_time import local
from tools.cli.output import output_option, show, table

_COLUMNS = ("revision", "at", "state", "version", "code", "config", "who", "ran", "runs", "end", "detail")


@click.command()
@click.argument("bot_id", metavar="ID")
@output_option
def history(bot_id: str, output: str) -> None:
    """Show the revisions of a bot, the latest first: who deployed what, how long it ran, and how it ended.

    The last 50 are kept. CODE and CONFIG are digests. Exit code 4 when there is no such bot.
    """
    rows = interrupts.run(_history(bot_id))
    empty = "No revisions yet: a worker writes them."
    show(output, rows, lambda: table(_COLUMNS, [_cells(row) for row in rows], empty=empty, least=("detail", "who")))


async def _history(bot_id: str) -> list[dict[str, Any]]:
    async with connected() as servers:
        entity = await existing(servers, BOT_RUNNER, bot_id)
        revisions = RevisionStore(await servers.database(BOT_RUNNER))
        owner = (await (await servers.owners(BOT_RUNNER)).of([entity.segment_id])).get(entity.segment_id)
        state = str(shown(stored_status_of(entity), owner).state)
        runs = await revisions.runs_of(entity, datetime.now(UTC))
        return [row_of(one) for one in described(entity, await revisions.of(entity), runs, state)]


def duration(seconds: float) -> str:
    """Return *seconds* for a table: `42 s`, `3.5 min`, `7.2 h`, `12.0 d`."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} s" if unit == "s" else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def _cells(row: dict[str, Any]) -> list[object]:
    end = row["end_reason"]
    if row["exit_code"]:
        end = f"{end} ({row['exit_code']})"
    return [
        row["revision"],
        local(row["at"]),
        row["state"],
        row["version"],
        row["code"],
        row["config_digest"],
        row["who"],
        duration(row["seconds"]) if row["runs"] else "",
        row["runs"] or "",
        end,
        row["detail"],
    ]
