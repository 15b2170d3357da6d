"""The states of bots, backtests and schedules as the `ls` commands show them."""

from collections.abc import Mapping
from typing import Any

from libs.core.store.entities import Entity
from libs.core.store.shown_state import Shown, StoredStatus


def stored_status_of(entity: Entity, state: str | None = None) -> StoredStatus:
    """Return the state in an entity's document; *state* overrides the stored one."""
    status = entity.status
    word = status.get("state") if state is None else state
    return StoredStatus(str(word or ""), str(status.get("worker") or ""), entity.enabled, entity.held)


def with_reason(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with `state`, `state_reason` and `detail` for display; `missing` replaces the detail."""
    now = Shown(row["state"], row["state_reason"])
    detail = f"waiting: {row['missing']}" if row.get("missing") else row["detail"]
    correction = now.why if now.text == now.state else ""
    return {**row, "state": now.text, "detail": "; ".join(part for part in (correction, detail) if part)}
