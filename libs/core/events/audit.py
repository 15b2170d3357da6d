"""The entries of the audit record for applied events."""

from collections.abc import Sequence
from datetime import UTC, datetime

from libs.core.store.audit import Action, AuditEntry, Way
from libs.core.store.entities import owner_in
from libs.core.store.history import EntityEvent, EventKind

_ACTIONS = {
    EventKind.CREATED: Action.CREATED,
    EventKind.UPDATED: Action.UPDATED,
    EventKind.DELETED: Action.DELETED,
}


def entries_of(events: Sequence[EntityEvent], owner_field: str) -> list[AuditEntry]:
    """Return an entry for each of *events*, which have changed their entities. A deletion names no owner."""
    now = datetime.now(UTC)
    return [
        AuditEntry(now, _ACTIONS[event.kind], owner_in(event.content, owner_field), Way.EVENT, event.id)
        for event in events
    ]
