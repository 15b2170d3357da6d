"""Output rows for one bot."""

from typing import Any

from libs.core.store.entities import Entity
from libs.core.store.releases import effective
from libs.core.store.shown_state import Shown, ShownState


def bot_row(entity: Entity, now: Shown) -> dict[str, Any]:
    """Return the row of a bot in state *now*; `missing` is known only to the leading master."""
    status = entity.status
    return {
        "id": entity.id,
        "state": now.state,
        "state_reason": now.why,
        "detail": status.get("detail", ""),
        "lacking": status.get("lacking") if now.state == ShownState.WAITING else None,
        "missing": "",
        "segment": entity.segment_id,
        "worker": status.get("worker") or None,
        "container": status.get("container") or None,
        "restarts": status.get("restarts", 0),
        "version": effective(entity).version,
        "rejection": status.get("rejection"),
        "runtime": entity.runtime,
        "revision": entity.revision,
        "since": status.get("since"),
        "held": str(entity.held.target) if entity.held is not None else None,
    }
