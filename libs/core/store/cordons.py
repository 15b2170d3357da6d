"""Cordons: an operator's orders that workers receive no new segments, or also release the owned ones (drain).

A cordon belongs to a worker id, so it survives restarts of the worker under the same id and of the masters. The cordon
of a worker that does not return is removed after some days.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import ASCENDING, ReturnDocument

from libs.core.process.isolation import isolated
from libs.core.store.client import Database, translated

COLLECTION = "cordons"
KEPT_DAYS = 7
"""How long the cordon of a disconnected worker is kept."""
_SEEN_EVERY = timedelta(hours=1)


@dataclass(frozen=True)
class Cordon:
    """The cordon of one worker.

    Attributes:
        drain: whether its segments also move to other workers; otherwise it keeps them.
        revision: differs after each change of the cordon.
        heeded: whether the leading master has decided with this revision.
        stays: the segments of a drained worker that no other worker can take now, with the reason, as last written by
            the leading master.
    """

    worker_id: str
    drain: bool
    since: datetime
    reason: str = ""
    revision: str = ""
    heeded: bool = False
    stays: Mapping[int, str] = field(default_factory=dict)


class CordonStore:
    """The collection ``cordons`` of a service's database. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._cordons = database[COLLECTION]

    async def ensure_indexes(self) -> None:
        """Create the index that expires cordons. May be repeated."""
        with translated():
            await self._cordons.create_index(
                [("seen_at", ASCENDING)], name="seen_at_ttl", expireAfterSeconds=KEPT_DAYS * 86_400
            )

    async def cordon(self, worker_id: str, *, drain: bool = False, reason: str = "") -> Cordon:
        """Cordon *worker_id*, and with *drain* also drain it. May be repeated."""
        change = {
            "$set": {"drain": drain, "reason": reason, "revision": uuid.uuid4().hex, "stays": []},
            "$setOnInsert": {"since": datetime.now(UTC)},
            "$currentDate": {"seen_at": True},
        }
        with translated():
            document = await self._cordons.find_one_and_update(
                {"_id": worker_id}, change, upsert=True, return_document=ReturnDocument.AFTER
            )
        assert document is not None  # the upsert inserts a missing one
        return _cordon(document)

    async def uncordon(self, worker_id: str) -> bool:
        """Remove the cordon; return whether there was one."""
        with translated():
            return bool((await self._cordons.delete_one({"_id": worker_id})).deleted_count)

    async def current(self) -> dict[str, Cordon]:
        """Return all cordons, by worker."""
        with translated():
            documents = await self._cordons.find({}).to_list()
        found = {}
        for document in documents:
            # An unreadable document must not prevent assignments.
            with isolated("read cordon"):
                found[str(document["_id"])] = _cordon(document)
        return found

    async def heed(self, cordon: Cordon, stays: Mapping[int, str]) -> None:
        """Record that *cordon* was decided with, unless it was changed meanwhile, and which segments stay."""
        staying = [{"segment": segment_id, "reason": reason} for segment_id, reason in sorted(stays.items())]
        with translated():
            await self._cordons.update_one(
                {"_id": cordon.worker_id, "revision": cordon.revision},
                {"$set": {"heeded": cordon.revision, "stays": staying}},
            )

    async def seen(self, worker_ids: Iterable[str]) -> None:
        """Extend the cordons of these connected workers. May be repeated at any time."""
        before = datetime.now(UTC) - _SEEN_EVERY
        with translated():
            await self._cordons.update_many(
                {"_id": {"$in": sorted(worker_ids)}, "seen_at": {"$lt": before}}, {"$currentDate": {"seen_at": True}}
            )


def _cordon(document: Mapping[str, Any]) -> Cordon:
    since = document["since"]
    revision = str(document["revision"])
    return Cordon(
        worker_id=str(document["_id"]),
        drain=bool(document.get("drain")),
        since=since if since.tzinfo is not None else since.replace(tzinfo=UTC),
        reason=str(document.get("reason", "")),
        revision=revision,
        heeded=document.get("heeded") == revision,
        stays={int(one["segment"]): str(one["reason"]) for one in document.get("stays", ())},
    )
