"""Entities as people and other programs may see them: where each stands, and nothing of its config."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pymongo
from pymongo import ASCENDING

from libs.core.store.client import Database, Document, translated
from libs.core.store.entities import EntityStore
from libs.core.store.holds import Hold, Holds
from libs.core.store.partitions import PartitionStore

_OFF = [False, 0, "false", "0"]
_LAST_TEXT = "\U0010ffff"
_DETAIL_CHARACTERS = 1000
_LIMIT_SECONDS = 4.0
"""Of a question that goes through all entities; the server gives it up too."""
_ENABLED = {
    "$not": [
        {
            "$in": [
                {
                    "$cond": [
                        {"$eq": [{"$type": "$config.enabled"}, "string"]},
                        {"$toLower": {"$trim": {"input": "$config.enabled"}}},
                        "$config.enabled",
                    ]
                },
                _OFF,
            ]
        }
    ]
}
"""The rule of :func:`libs.core.store.entities.is_enabled`, as the server computes it, so that no config is read."""
_STATE = {
    "$cond": [
        {"$in": [{"$ifNull": ["$status.state", ""]}, ["", None]]},
        {"$cond": ["$enabled", "waiting", "off"]},
        {"$toString": "$status.state"},
    ]
}
_FIELDS = {
    "_id": 0,
    "id": 1,
    "segment_id": 1,
    "enabled": 1,
    "state": 1,
    "status.since": 1,
    "status.detail": 1,
    "status.worker": 1,
    "status.restarts": 1,
    "status.run_id": 1,
    "custom.version": 1,
    "custom.config.version": 1,
    "custom.config.runtime": 1,
    "custom.updatedAt": 1,
    "next_execution_time": 1,
    "revision": 1,
}


@dataclass(frozen=True)
class HoldView:
    """The kill switch that keeps an entity from running: what it holds, since when, on whose word and why."""

    target: str
    since: datetime
    by: str
    reason: str


@dataclass(frozen=True)
class EntityView:
    """Where one entity stands.

    Attributes:
        state: what its worker last said (``running``, ``backing-off`` …); ``waiting`` or ``off`` while none has.
        since: when that state began.
        detail: one sentence about it, perhaps with the last line that it printed; empty when there is nothing to say.
        worker: the id of the worker that said so; empty when none has.
        updated_at: as the producer of its last event wrote it.
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

    @property
    def held(self) -> bool:
        """Whether a kill switch keeps it from running."""
        return self.hold is not None


@dataclass(frozen=True)
class EntityFilter:
    """Which entities to list; None means any."""

    state: str | None = None
    segment: int | None = None
    id_prefix: str | None = None


class EntityViews:
    """Reads the entities of a service. Raises StoreUnavailable."""

    def __init__(self, database: Database, collection: str) -> None:
        self._collection = database[collection]
        # For what is held by a selector over fields that a view does not have.
        self._entities = EntityStore(database, collection, PartitionStore(database, collection, 1))

    async def find(self, wanted: EntityFilter, *, after: str | None = None, limit: int = 100) -> list[EntityView]:
        """Those that match, by id, from the first behind *after* on."""
        ids: Document = {}
        if wanted.id_prefix:
            ids |= {"$gte": wanted.id_prefix, "$lte": wanted.id_prefix + _LAST_TEXT}
        if after is not None:
            ids["$gt"] = after
        query: Document = {"id": ids} if ids else {}
        if wanted.segment is not None:
            query["segment_id"] = wanted.segment
        return await self._read(query, wanted.state, limit)

    async def get(self, entity_id: str) -> EntityView | None:
        """One entity, or None."""
        found = await self._read({"id": entity_id}, None, 1)
        return found[0] if found else None

    async def counts(self) -> dict[str, int]:
        """How many entities are in each state."""
        pipeline: list[Document] = [
            {"$set": {"enabled": _ENABLED}},
            {"$group": {"_id": _STATE, "number": {"$sum": 1}}},
        ]
        with translated(), pymongo.timeout(_LIMIT_SECONDS):
            groups = await self._collection.aggregate(pipeline)
            return {str(group["_id"]): int(group["number"]) async for group in groups}

    async def _read(self, query: Document, state: str | None, limit: int) -> list[EntityView]:
        pipeline: list[Document] = [
            {"$match": query},
            {"$sort": {"id": ASCENDING}},
            {"$set": {"enabled": _ENABLED}},
            {"$set": {"state": _STATE}},
        ]
        if state is not None:
            pipeline.append({"$match": {"state": state}})
        pipeline += [{"$limit": limit}, {"$project": _FIELDS}]
        with translated(), pymongo.timeout(_LIMIT_SECONDS):
            documents = [document async for document in await self._collection.aggregate(pipeline)]
        holds = await self._holds([str(document["id"]) for document in documents])
        return [_view(document, holds.get(str(document["id"]))) for document in documents]

    async def _holds(self, ids: list[str]) -> Mapping[str, Hold]:
        holds: Holds = await self._entities.holds.current()
        if all(hold.target.kind != "selector" for hold in holds):
            return {key: hold for key in ids if (hold := holds.on({"id": key})) is not None}
        return {entity.id: entity.held for entity in await self._entities.by_ids(ids) if entity.held is not None}


def _view(document: Mapping[str, Any], hold: Hold | None) -> EntityView:
    status, custom = _object(document.get("status")), _object(document.get("custom"))
    bot = _object(custom.get("config"))
    updated = custom.get("updatedAt")
    return EntityView(
        id=str(document["id"]),
        segment=_whole(document.get("segment_id")),
        enabled=bool(document["enabled"]),
        hold=_hold_view(hold) if hold is not None else None,
        state=str(document["state"]),
        since=_moment(status.get("since")),
        detail=_text(status.get("detail"))[:_DETAIL_CHARACTERS],
        worker=_text(status.get("worker")),
        restarts=_whole(status.get("restarts")) or 0,
        run_id=_text(status.get("run_id")),
        version=_text(custom.get("version") or bot.get("version")),
        runtime=_text(bot.get("runtime")),
        updated_at=updated.isoformat() if isinstance(updated, datetime) else _text(updated),
        next_execution_time=_number(document.get("next_execution_time")),
        revision=_whole(document.get("revision")) or 0,
    )


def _hold_view(hold: Hold) -> HoldView:
    target = hold.target
    of_config = target.kind == "selector" and target.path.split(".")[0] == "config"
    return HoldView(f"{target.path}=…" if of_config else str(target), hold.since, hold.by, hold.reason)


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None else None


def _moment(value: object) -> datetime | None:
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return None
