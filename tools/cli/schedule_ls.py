"""`runtime schedule ls`: the schedules with their next and last runs."""

from typing import Any

import click

from libs.core.process.service import BOT_SCHEDULER
from libs.core.store.ownership import Ownership
from libs.core.store.shown_state import shown
from services.bot_scheduler.state import ScheduleState
from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.entity_states import stored_status_of, with_reason
from tools.cli.local_time import local
from tools.cli.output import output_option, show, table

_COLUMNS = ("id", "state", "schedule", "next run", "last run", "ended", "segment", "detail")
_LEAST = ("segment", "ended", "last run")


@click.command()
@output_option
def ls(output: str) -> None:
    """List the schedules with their next and last runs, in this machine's zone."""
    found = interrupts.run(_ls())

    def text() -> None:
        table(_COLUMNS, [_cells(row) for row in found], empty="There are no schedules.", least=_LEAST)

    show(output, found, text)


async def _ls() -> list[dict[str, Any]]:
    async with connected() as servers:
        entities = await servers.entities(BOT_SCHEDULER)
        found = [entity async for entity in entities.all()]
        owners = await (await servers.owners(BOT_SCHEDULER)).all()
        return [_row(ScheduleState.of(entity), owners.get(entity.segment_id)) for entity in found]


def _row(state: ScheduleState, owner: Ownership | None) -> dict[str, Any]:
    entity, status = state.entity, state.entity.status
    now = shown(stored_status_of(entity, _word(state)), owner)
    last = status.get("last_run")
    return {
        "id": state.id,
        "state": now.state,
        "state_reason": now.why,
        "schedule": entity.config.get("schedule"),
        "timezone": state.definition.schedule.zone.key if state.definition is not None else None,
        "next_run": state.next_at if state.runnable and not state.problem else None,
        "last_run": dict(last) if isinstance(last, dict) else None,
        "queued": len(state.queued),
        "segment": entity.segment_id,
        "version": entity.version,
        "revision": entity.revision,
        "detail": state.problem or status.get("detail") or "",
        "held": str(entity.held.target) if entity.held is not None else None,
    }


def _word(state: ScheduleState) -> str:
    """Return the state in the document, as if a worker owned its segment."""
    if state.problem:
        return "rejected"
    if state.entity.held is not None:
        return state.entity.held.state
    if state.firing is not None and not state.firing.waiting:
        return str(state.entity.status.get("state") or "running") if state.firing.started else "starting"
    if state.paused:
        return "paused"
    return "waiting" if state.entity.enabled else "off"


def _cells(row: dict[str, Any]) -> list[object]:
    row = with_reason(row)
    last = row["last_run"] or {}
    zone = f" {row['timezone']}" if row["timezone"] not in (None, "UTC") else ""
    return [
        row["id"],
        row["state"],
        f"{row['schedule']}{zone}",
        local(row["next_run"]),
        local(last.get("scheduled_at")),
        last.get("reason"),
        row["segment"],
        row["detail"],
    ]
