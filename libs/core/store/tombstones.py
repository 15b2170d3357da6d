"""Tombstones: the last deletion of an entity, kept longer than the stream keeps its events.

A late `created` or `updated` from before the deletion finds the tombstone and recreates nothing. It stays when the
entity is created again, since earlier events may still arrive.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from libs.core.store.client import Database, Document, met_existing, translated
from libs.core.store.history import UNKNOWN_STREAM, Stamp


class TombstoneStore:
    """The collection `tombstones`: `{_id: entity id, deleted: stamp, last_made_by, expires_at}`.

    Args:
        life_days: must exceed the retention of the event stream (7 days).
    """

    def __init__(self, database: Database, *, life_days: float = 8.0) -> None:
        self._tombstones = database["tombstones"]
        self._life = timedelta(days=life_days)

    async def ensure_indexes(self) -> None:
        """Create the index that expires tombstones. May be repeated."""
        with translated():
            await self._tombstones.create_index("expires_at", expireAfterSeconds=0)

    async def of(self, entity_ids: Iterable[str]) -> dict[str, Stamp]:
        """Return the last deletion of each of these entities that has one."""
        with translated():
            found = self._tombstones.find({"_id": {"$in": list(entity_ids)}}, {"deleted": 1, "last_made_by": 1})
            return {str(tombstone["_id"]): _deletion(tombstone) async for tombstone in found}

    async def of_existing(self, entities: str, within_seconds: float | None = None) -> list[str]:
        """Return the ids that have a tombstone and a document in the collection *entities*.

        Most were created again. For the others the deletion was interrupted after the tombstone.

        Args:
            within_seconds: only tombstones written within that time; None: all that are stored.
        """
        pipeline: list[dict[str, object]] = [
            {"$lookup": {"from": entities, "localField": "_id", "foreignField": "id", "as": "entities"}},
            {"$match": {"entities": {"$ne": []}}},
            {"$project": {"_id": 1}},
        ]
        if within_seconds is not None:
            put_since = datetime.now(UTC) - timedelta(seconds=within_seconds)
            pipeline.insert(0, {"$match": {"expires_at": {"$gte": put_since + self._life}}})
        with translated():
            return [str(found["_id"]) async for found in await self._tombstones.aggregate(pipeline)]

    async def put(self, deletions: Mapping[str, Stamp]) -> None:
        """Store deletions. One older than the stored one is ignored. May be repeated."""
        if not deletions:
            return
        expires_at = datetime.now(UTC) + self._life
        updates = [
            UpdateOne(
                {"_id": entity_id, **_not_later_than(stamp)},
                {
                    "$set": {"deleted": stamp.to_document(), "expires_at": expires_at},
                    # A later writer may have seen fewer of the earlier events.
                    "$max": {"last_made_by": stamp.last_made_by},
                },
                upsert=True,
            )
            for entity_id, stamp in deletions.items()
        ]
        with translated():
            if met := await self._met(updates):
                # Another deletion may have been stored between the two halves of an upsert, its read and its insert.
                # Now that there is one for certain, its time decides.
                await self._met(met)

    async def _met(self, updates: list[UpdateOne]) -> list[UpdateOne]:
        """Write *updates*; return those whose insert conflicted with a later tombstone."""
        try:
            await self._tombstones.bulk_write(updates, ordered=False)
        except BulkWriteError as error:
            return [updates[index] for index in met_existing(error)]
        return []


def _deletion(tombstone: Document) -> Stamp:
    return replace(Stamp.from_document(tombstone["deleted"]), last_made_by=int(tombstone.get("last_made_by", 0)))


def _not_later_than(stamp: Stamp) -> Document:
    """Return the filter for the order of :meth:`Stamp.published_before`: a stream's clock may have been set back."""
    by_time: Document = {"deleted.published_at": {"$lte": stamp.published_at}}
    if stamp.stream == UNKNOWN_STREAM:
        return by_time
    same_stream = {"deleted.stream": stamp.stream, "deleted.sequence": {"$lte": stamp.sequence}}
    return {"$or": [same_stream, {"deleted.stream": {"$ne": stamp.stream}, **by_time}]}
