"""The audit record: who deployed, changed, killed or stopped an entity, or read its output.

An entry is a line in the process's log first, and then a document that expires. It is a record of what was done, and
never delays or prevents it: while the database is away, only the log line is left.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from pymongo import DESCENDING

from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.store.client import Database, Document, translated
from libs.core.store.entities import owner_in
from libs.core.store.history import EntityEvent, EventKind

log = get_logger(__name__)

COLLECTION = "audit"
_WRITE_SECONDS = 2.0
_TEXT_CHARACTERS = 500
# A page that shows output asks for it again and again.
_SAME_READER_SECONDS = 60.0
_READERS = 10_000


class Action(StrEnum):
    """What was done to an entity."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    KILLED = "killed"
    RESUMED = "resumed"
    STOPPED = "stopped"
    STARTED = "started"
    READ_OUTPUT = "read-output"


class Way(StrEnum):
    """How it was done: by an event of the platform, by a `runtime` command, or over HTTP."""

    EVENT = "event"
    COMMAND = "command"
    HTTP = "http"


@dataclass(frozen=True)
class AuditEntry:
    """One entry.

    Attributes:
        who: the owner in an event, a user of this machine, the name that an authenticating proxy sent, or the name that
            came with the token; empty when unknown.
        target: the entity's id, or what a hold is for, such as ``all``.
        detail: such as the reason of a kill.
    """

    at: datetime
    action: Action
    who: str
    way: Way
    target: str
    detail: str = ""


_ACTIONS = {
    EventKind.CREATED: Action.CREATED,
    EventKind.UPDATED: Action.UPDATED,
    EventKind.DELETED: Action.DELETED,
}


@dataclass(frozen=True)
class AuditFilter:
    """A selection of entries; None selects all."""

    target: str | None = None
    who: str | None = None
    action: Action | None = None
    before: datetime | None = None


class AuditStore:
    """The collection ``audit`` of a service's database.

    Args:
        keep_days: how long entries are kept.
    """

    def __init__(self, database: Database, keep_days: float = 90.0) -> None:
        self._audit = database[COLLECTION]
        self._keep = timedelta(days=keep_days)
        self._readers: dict[tuple[str, str], float] = {}

    async def ensure_indexes(self) -> None:
        """Create the indexes. May be repeated. Raises StoreUnavailable."""
        with translated():
            await self._audit.create_index("expires_at", name="expires_at_ttl", expireAfterSeconds=0)
            await self._audit.create_index([("at", DESCENDING)], name="at")
            await self._audit.create_index([("target", DESCENDING), ("at", DESCENDING)], name="target_at")

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        """Log *entries* and store them. Errors of the database are logged, never raised."""
        for entry in entries:
            log.info(
                "audit", action=str(entry.action), who=entry.who, way=str(entry.way), id=entry.target, more=entry.detail
            )
        if not entries:
            return
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                with translated():
                    await self._audit.insert_many([self._document(entry) for entry in entries], ordered=False)
        except (RuntimeFault, TimeoutError) as error:
            log.warning("audit entries are only in the log", number=len(entries), reason=str(error))

    async def events_applied(self, events: Sequence[EntityEvent], owner_field: str) -> None:
        """Record an entry for each of *events*, which have changed their entities. A deletion names no owner."""
        now = datetime.now(UTC)
        entries = [
            AuditEntry(now, _ACTIONS[event.kind], owner_in(event.content, owner_field), Way.EVENT, event.id)
            for event in events
        ]
        await self.record(entries)

    async def output_read(self, who: str, entity_id: str) -> None:
        """Record that *who* reads the output of an entity, once a minute at most."""
        now = time.monotonic()
        last = self._readers.get((who, entity_id))
        if last is not None and now - last < _SAME_READER_SECONDS:
            return
        if len(self._readers) >= _READERS:
            self._readers.clear()
        self._readers[who, entity_id] = now
        await self.record([AuditEntry(datetime.now(UTC), Action.READ_OUTPUT, who, Way.HTTP, entity_id)])

    async def list(self, wanted: AuditFilter | None = None, *, limit: int = 100) -> list[AuditEntry]:
        """Return entries, the latest first. Raises StoreUnavailable."""
        wanted = wanted or AuditFilter()
        query: Document = {
            name: str(value) for name in ("target", "who", "action") if (value := getattr(wanted, name)) is not None
        }
        if wanted.before is not None:
            query["at"] = {"$lt": wanted.before}
        with translated():
            found = self._audit.find(query).sort("at", DESCENDING).limit(limit)
            return [_entry(document) async for document in found]

    def _document(self, entry: AuditEntry) -> Document:
        fields = {name: _storable(value) for name, value in asdict(entry).items()}
        return {**fields, "expires_at": entry.at + self._keep}


def _storable(value: Any) -> Any:
    """Limit the length, and drop lone surrogates, which cannot be encoded in UTF-8."""
    return str(value)[:_TEXT_CHARACTERS].encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _entry(document: Document) -> AuditEntry:
    at: datetime = document["at"]
    return AuditEntry(
        at if at.tzinfo is not None else at.replace(tzinfo=UTC),
        Action(document["action"]),
        str(document["who"]),
        Way(document["way"]),
        str(document["target"]),
        str(document.get("detail", "")),
    )
