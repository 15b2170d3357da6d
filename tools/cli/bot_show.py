"""`runtime bot show`: the details of one bot."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from libs.core.api.answers import plain, run_view
from libs.core.process.service import BOT_RUNNER
from libs.core.room import MIB
from libs.core.store.entities import Entity
from libs.core.store.releases import effective
from libs.core.store.revisions import RevisionStore
from libs.core.store.runs import RunFilter, RunStore
from libs.core.store.shown_state import ShownState, shown
from tools.bots.config_edit import masked
from tools.bots.revisions import described, row_of
from tools.cli import interrupts
from tools.cli.bot_rows import bot_row
from tools.cli.connections import Connections, connected
from tools.cli.entity_lookup import existing
from tools.cli.entity_states import stored_status_of, with_reason
from tools.cli.leader import missing_of, usage_of
from tools.cli.local_time import local
from tools.cli.output import cell, output_option, show, table

_RUNS = 5
_WITH_CONTAINER = ("starting", "running", "stopping")
_STARTED_AGAIN = ("backing-off", "rejected")
_DEPLOYED = ("revision", "at", "who", "version", "code", "config_digest")
_FACTS = ("segment", "worker", "version", "runtime", "revision", "restarts", "since", "held")


@click.command("show")
@click.argument("bot_id", metavar="ID")
@output_option
def show_bot(bot_id: str, output: str) -> None:
    """Show one bot: its state with the reason, worker, revision, usage, holds, config with secrets masked, latest runs.

    Exit code 4 when there is no such bot.
    """
    bot = interrupts.run(_show(bot_id))
    show(output, bot, lambda: _print(bot))


async def _show(bot_id: str) -> dict[str, Any]:
    async with connected() as servers:
        entity = await existing(servers, BOT_RUNNER, bot_id)
        owners = await servers.owners(BOT_RUNNER)
        owner = (await owners.of([entity.segment_id])).get(entity.segment_id)
        row = bot_row(entity, shown(stored_status_of(entity), owner))
        if row["state"] == ShownState.WAITING:
            row["missing"] = await missing_of(servers, BOT_RUNNER, bot_id)
        more = await _more(servers, entity, str(row["state"]))
        runs = await RunStore(await servers.database(BOT_RUNNER)).list(RunFilter(entity_id=bot_id), limit=_RUNS)
        found = [plain(run_view(run, (await owners.of([run.segment_id])).get(run.segment_id))) for run in runs]
        return row | more | {"config": masked(effective(entity).config), "runs": found}


async def _more(servers: Connections, entity: Entity, state: str) -> dict[str, Any]:
    """Return what is not in the rows of `bot ls`: holds, the next restart, the revision, and the usage."""
    holds = await (await servers.entities(BOT_RUNNER)).holds.current()
    status = entity.status
    not_before = status.get("not_before")
    revisions = described(entity, await RevisionStore(await servers.database(BOT_RUNNER)).of(entity), [], state)
    running = next((one for one in revisions if one.state == state), None)
    return {
        "holds": [
            {"state": hold.state, "target": str(hold.target), "since": hold.since, "by": hold.by, "reason": hold.reason}
            for hold in holds
            if hold.target.matches(entity.document)
        ],
        "next_restart": _moment(not_before) if state in _STARTED_AGAIN else None,
        "failures": status.get("failures", 0),
        "running_revision": status.get("running_revision") or None,
        "deployed": (
            {name: value for name, value in row_of(running).items() if name in _DEPLOYED}
            if running is not None
            else None
        ),
        "usage": await usage_of(servers, BOT_RUNNER, entity) if state in _WITH_CONTAINER else None,
    }


def _moment(seconds: object) -> datetime | None:
    """Return Unix seconds as a time; None for none, and for what another program wrote into the field."""
    if not isinstance(seconds, int | float) or not 0 < seconds < 1 << 35:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _print(bot: Mapping[str, Any]) -> None:
    shown = with_reason(bot)
    click.echo(f"{cell(bot['id'])} {cell(shown['state'])}")
    if shown["detail"]:
        click.echo(f"  {cell(shown['detail'])}")
    for name in _FACTS:
        value = local(bot[name]) if name == "since" else bot[name]
        if value is not None:
            click.echo(f"  {name}: {cell(value)}")
    for line in _more_lines(bot):
        click.echo(f"  {line}")
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


def _more_lines(bot: Mapping[str, Any]) -> Iterator[str]:
    if bot["next_restart"] is not None:
        yield f"next restart: {local(bot['next_restart'])} (after {bot['failures']} failures)"
    for hold in bot["holds"]:
        reason = f": {cell(hold['reason'])}" if hold["reason"] else ""
        yield f"{hold['state']} since {local(hold['since'])} by {cell(hold['by'])} ({cell(hold['target'])}){reason}"
    if (deployed := bot["deployed"]) is not None:
        who = f" by {cell(deployed['who'])}" if deployed["who"] else ""
        code = f", code {deployed['code']}" if deployed["code"] else ""
        yield f"deployed: {local(deployed['at'])}{who}{code}, config {deployed['config_digest']}"
    if (usage := bot["usage"]) is not None:
        cpus = f"{usage['cpus']:.2f}, " if usage["cpus"] is not None else ""
        yield f"cpu: {cpus}{usage['cpu_seconds']:.1f} s since its start"
        yield f"memory: {usage['memory_bytes'] / MIB:.0f} of {usage['memory_limit_bytes'] / MIB:.0f} MiB"
