"""Views of entities for users and programs: their state, without their config."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pymongo
from pymongo import ASCENDING

from libs.core.room import Need
from libs.core.store.client import Database, Document, translated
from libs.core.store.entities import EntityStore
from libs.core.store.entity_counts import EntityCounts
from libs.core.store.holds import Hold, Holds
from libs.core.store.ownership import Ownership, OwnershipReader
from libs.core.store.partitions import PartitionStore
from libs.core.store.shown_state import ShownState, shown
from libs.core.store.stored_status import STATUS_FIELDS, number, owner_of, stored_status, whole

_LAST_TEXT = "\U0010ffff"
_DETAIL_CHARACTERS = 1000
_BATCH = 1000
_LIMIT_SECONDS = 4.0
"""Time limit of a query over all entities, on the server too."""
_FIELDS = {
    "_id": 0,
    "id": 1,
    "segment_id": 1,
    **dict.fromkeys(STATUS_FIELDS, 1),
    "status.since": 1,
    "status.detail": 1,
    "status.worker": 1,
    "status.restarts": 1,
    "status.run_id": 1,
    "status.lacking": 1,
    "custom.version": 1,
    "custom.config.version": 1,
    "custom.config.runtime": 1,
    "custom.updatedAt": 1,
    "custom.updatedat": 1,
    "next_execution_time": 1,
    "revision": 1,
}


@dataclass(frozen=True)
class HoldView:
    """The hold that keeps an entity down: target, time, author and reason; a graceful stop or a kill."""

    target: str
    since: datetime
    by: str
    reason: str
    graceful: bool = False


@dataclass(frozen=True)
class EntityView:
    """The state of one entity.

    Attributes:
        state: the state last reported by its worker (``running``, ``backing-off`` …), corrected by the lease of its
            segment (:mod:`libs.core.store.shown_state`); ``waiting`` or ``off`` before the first report.
        state_reason: the correction, such as ``worker lost 12 s ago``; empty without one.
        since: when the reported state began.
        detail: one sentence about it, perhaps with its last line of output; empty when there is nothing to report.
        worker: the id of the reporting worker; empty without a report.
        lacking: the room that it needs while it waits; None otherwise.
        missing: the shortage on the worker with the most room, or the labels that no worker has, as text; empty when
            unknown.
        updated_at: as written by the producer of its last event.
        next_execution_time: Unix seconds at which a schedule fires next.
    """

    id: str
    segment: int | None
    enabled: bool
    hold: HoldView | None
    state: str
    since: datetime | None
    detail: str
    worker: str
    restarts: int
    run_id: str
    version: str
    runtime: str
    updated_at: str
    next_execution_time: float | None
    revision: int
    state_reason: str = ""
    lacking: Need | None = None
    missing: str = ""

    @property
    def held(self) -> bool:
        """Whether a kill or a stop keeps it from running."""
        return self.hold is not None


@dataclass(frozen=True)
class EntityFilter:
    """A filter of entities; None means any."""

    state: str | None = None
    segment: int | None = None
    id_prefix: str | None = None


class EntityViews:
    """Reads the entities of a service. Raises StoreUnavailable."""

    def __init__(self, database: Database, collection: str) -> None:
        self._collection = database[collection]
        self._owners = OwnershipReader(database)
        self._counts = EntityCounts(database, collection)
        # For holds by a selector over fields that a view does not have.
        self._entities = EntityStore(database, collection, PartitionStore(database, collection, 1))

    async def find(self, wanted: EntityFilter, *, after: str | None = None, limit: int = 100) -> list[EntityView]:
        """Return matching entities by id, from the first after *after* on."""
        ids: Document = {}
        if wanted.id_prefix:
            ids |= {"$gte": wanted.id_prefix, "$lte": wanted.id_prefix + _LAST_TEXT}
        query: Document = {"segment_id": wanted.segment} if wanted.segment is not None else {}
        candidates = await self._counts.candidates(wanted.state) if wanted.state is not None else {}
        found: list[EntityView] = []
        while True:
            if after is not None:
                ids["$gt"] = after
            page = await self._page(
                query | ({"id": ids} if ids else {}), candidates, limit if not candidates else _BATCH
            )
            found += [view for view in page if wanted.state in (None, view.state)]
            if not candidates or len(page) < _BATCH or len(found) >= limit:
                return found[:limit]
            after = page[-1].id

    async def get(self, entity_id: str) -> EntityView | None:
        """Return one entity, or None."""
        found = await self._page({"id": entity_id}, {}, 1)
        return found[0] if found else None

    async def counts(self) -> dict[str, int]:
        """Return the number of entities in each state."""
        return await self._counts.by_state()

    async def _page(self, query: Document, candidates: Document, limit: int) -> list[EntityView]:
        pipeline: list[Document] = [
            {"$match": query},
            {"$sort": {"id": ASCENDING}},
            {"$set": STATUS_FIELDS},
            {"$match": candidates},
            {"$limit": limit},
            {"$project": _FIELDS},
        ]
        with translated(), pymongo.timeout(_LIMIT_SECONDS):
            documents = [document async for document in await self._collection.aggregate(pipeline)]
        # Read after the documents: a lease exists before a state is reported under it.
        owners = await self._owners.of(whole(document.get("segment_id")) for document in documents)
        holds = await self._holds([str(document["id"]) for document in documents])
        return [
            _view(document, holds.get(str(document["id"])), owner_of(owners, document.get("segment_id")))
            for document in documents
        ]

    async def _holds(self, ids: list[str]) -> Mapping[str, Hold]:
        holds: Holds = await self._entities.holds.current()
        if all(hold.target.kind != "selector" for hold in holds):
            return {key: hold for key in ids if (hold := holds.on({"id": key})) is not None}
        return {e.id: e.held for e in (await self._entities.by_ids(ids)).values() if e.held is not None}


def _view(document: Mapping[str, Any], hold: Hold | None, owner: Ownership | None) -> EntityView:
    now = shown(stored_status(document, hold), owner)
    status, custom = _object(document.get("status")), _object(document.get("custom"))
    bot = _object(custom.get("config"))
    updated = custom.get("updatedAt") or custom.get("updatedat")
    return EntityView(
        id=str(document["id"]),
        segment=whole(document.get("segment_id")),
        enabled=bool(document["enabled"]),
        hold=_hold_view(hold) if hold is not None else None,
        state=now.state,
        state_reason=now.why,
        since=_moment(status.get("since")),
        detail=_text(status.get("detail"))[:_DETAIL_CHARACTERS],
        worker=_text(status.get("worker")),
        restarts=whole(status.get("restarts")) or 0,
        run_id=_text(status.get("run_id")),
        version=_text(custom.get("version") or bot.get("version")),
        runtime=_text(bot.get("runtime")),
        updated_at=updated.isoformat() if isinstance(updated, datetime) else _text(updated),
        next_execution_time=number(document.get("next_execution_time")),
        revision=whole(document.get("revision")) or 0,
        lacking=Need.from_document(status.get("lacking")) if now.state == ShownState.WAITING else None,
    )


def _hold_view(hold: Hold) -> HoldView:
    target = hold.target
    of_config = target.kind == "selector" and target.path.split(".")[0] == "config"
    return HoldView(f"{target.path}=…" if of_config else str(target), hold.since, hold.by, hold.reason, hold.graceful)


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _moment(value: object) -> datetime | None:
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return None
