"""`runtime bot show`: the details of one bot."""

import json
from collections.abc import Mapping
from typing import Any

import click

from libs.core.api.answers import plain, run_view
from libs.core.process.service import BOT_RUNNER
from libs.core.store.entities import Entity
from libs.core.store.releases import effective
from libs.core.store.runs import RunFilter, RunStore
from libs.core.store.shown_state import ShownState, shown
from tools.bots.config_edit import masked
from tools.cli import interrupts
from tools.cli.bot_rows import bot_row
from tools.cli.connections import connected
from tools.cli.entity_states import stored_status_of, with_reason
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.leader import missing_room
from tools.cli.local_time import local
from tools.cli.output import cell, output_option, show, table

_RUNS = 5
_FACTS = ("segment", "worker", "version", "runtime", "revision", "restarts", "since", "held")


@click.command("show")
@click.argument("bot_id", metavar="ID")
@output_option
def show_bot(bot_id: str, output: str) -> None:
    """Show one bot: its state with the reason, its worker, its config with secrets masked, its latest runs.

    Exit code 4 when there is no such bot.
    """
    bot = interrupts.run(_show(bot_id))
    show(output, bot, lambda: _print(bot))


async def _show(bot_id: str) -> dict[str, Any]:
    async with connected() as servers:
        entity: Entity | None = await (await servers.entities(BOT_RUNNER)).get(bot_id)
        if entity is None:
            raise Failure(f"there is no bot {bot_id!r}; `runtime bot ls` lists all bots", ExitCode.NOT_FOUND)
        owners = await servers.owners(BOT_RUNNER)
        owner = (await owners.of([entity.segment_id])).get(entity.segment_id)
        row = bot_row(entity, shown(stored_status_of(entity), owner))
        if row["state"] == ShownState.WAITING:
            row["missing"] = (await missing_room(servers, BOT_RUNNER)).get(bot_id, "")
        runs = await RunStore(await servers.database(BOT_RUNNER)).list(RunFilter(entity_id=bot_id), limit=_RUNS)
        found = [plain(run_view(run, (await owners.of([run.segment_id])).get(run.segment_id))) for run in runs]
        return row | {"config": masked(effective(entity).config), "runs": found}


def _print(bot: Mapping[str, Any]) -> None:
    shown = with_reason(bot)
    click.echo(f"{cell(bot['id'])} {cell(shown['state'])}")
    if shown["detail"]:
        click.echo(f"  {cell(shown['detail'])}")
    for name in _FACTS:
        value = local(bot[name]) if name == "since" else bot[name]
        if value is not None:
            click.echo(f"  {name}: {cell(value)}")
    click.echo("  config:")
    for line in json.dumps(bot["config"], indent=2, ensure_ascii=False, default=str).splitlines():
        click.echo(f"    {line}")
    columns = ("  run", "state", "began", "seconds", "exit", "message")
    rows = [
        (
            f"  {run['run_id']}",
            run["state"],
            run["started_at"],
            run["seconds"],
            run["exit_code"],
            run["message"] or (run["last_lines"][-1] if run["last_lines"] else ""),
        )
        for run in bot["runs"]
    ]
    table(columns, rows, empty="  no runs yet")
