"""Find partitions with room, and open new ones: only as many as needed, however many processes claim at once.

A partition is opened only when none has room, and only under the number after the highest one. The number is
the guard: processes that find all partitions full at the same time try to open the same one, the unique `_id` lets one
of them succeed, and the others find its room when they read again. No lock is held, so a crash between any
two writes blocks no other process and leaves nothing to clean up.

The order of the reads in :meth:`PartitionRoom.open` makes this exact: the highest number is read first, then the room.
If no partition has room then, all partitions up to that number are full, so the next one is needed.

The partitions of a cordoned worker have no room: a new entity would go to that worker. A partition holds entities of
one placement (:mod:`libs.core.placement`), so that its worker needs the labels of all of them.
"""

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from libs.core.observability.log import get_logger
from libs.core.store.client import Database, Document, met_existing
from libs.core.store.cordons import COLLECTION as CORDONS
from libs.core.store.lease_updates import LIVE

log = get_logger(__name__)

_COUNTER = "partition_id"
_CHOICES = 64


class Preference(IntEnum):
    """The preference of a partition for a new entity; the lowest number comes first."""

    OWNED_AND_OCCUPIED = 0
    OWNED = 1
    UNOWNED = 2


@dataclass(frozen=True, slots=True)
class Room:
    """The free slots of one partition, as read."""

    segment_id: int
    free: int
    preference: Preference


@dataclass(frozen=True, slots=True)
class Opened:
    """A new partition; *claimed* slots in it belong to the process that opened it."""

    segment_id: int
    claimed: int
    claimed_monotonic: float


class PartitionRoom:
    """Finds and opens room in the collection `partitions`. Every method raises the driver's errors.

    Args:
        entities: the name of the collection whose documents the partitions hold.
        cap: maximum number of entities in a partition.
    """

    def __init__(self, database: Database, entities: str, cap: int) -> None:
        self._partitions = database["partitions"]
        self._counters = database["counters"]
        self._entities = database[entities]
        self._cordons = database[CORDONS]
        self._cap = cap

    async def find(self, count: int, placement: str = "") -> list[Room]:
        """Return partitions with room for *count*, the preferred ones first, in random order among equals.

        Empty only if no partition of that *placement* has room.
        """
        pipeline: list[Document] = [
            {"$match": await self._with_room(placement)},
            {"$project": {"bot_count": 1, "preference": _PREFERENCE, "draw": {"$rand": {}}}},
            {"$sort": {"preference": 1, "draw": 1}},
            {"$limit": max(count, _CHOICES)},
        ]
        return [
            Room(int(found["_id"]), self._cap - int(found["bot_count"]), Preference(found["preference"]))
            async for found in await self._partitions.aggregate(pipeline)
        ]

    async def open(self, count: int, placement: str = "") -> list[Opened]:
        """Open partitions for *count* entities if none has room; claim slots in those that this call opened.

        Returns fewer than needed, or none, when another process opened some or there is room after all: read again.
        """
        highest = await self._highest()
        if await self._partitions.find_one(await self._with_room(placement), {"_id": 1}) is not None:
            return []
        number = -(-count // self._cap)
        ids = range(highest + 1, highest + 1 + number)
        # An older runtime continues from here, so the counter is never behind the partitions.
        await self._counters.update_one({"_id": _COUNTER}, {"$max": {"seq": ids[-1]}}, upsert=True)
        claims = [min(self._cap, count - index * self._cap) for index in range(number)]
        claimed_monotonic = time.monotonic()
        made = await self._insert_missing(ids, claims, placement)
        if made:
            log.info("partitions opened", first=min(made), number=len(made), placement=placement)
        return [
            Opened(segment_id, claimed, claimed_monotonic)
            for segment_id, claimed in zip(ids, claims, strict=True)
            if segment_id in made
        ]

    async def _with_room(self, placement: str) -> Document:
        """Return the query for partitions with room."""
        # Those of older versions have no field, which equals None.
        query: Document = {"bot_count": {"$lt": self._cap}, "placement": placement or None}
        cordoned = [cordon["_id"] async for cordon in self._cordons.find({}, {"_id": 1})]
        if cordoned:
            query["$nor"] = [{"lease.worker_id": {"$in": cordoned}, "$expr": LIVE}]
        return query

    async def accepting(self, segment_id: int, placement: str) -> Document:
        """Return the query for this partition if it has room, entities, and a live owner that is not cordoned."""
        return {**await self._with_room(placement), "_id": segment_id, "$expr": _OWNED_AND_OCCUPIED}

    async def catch_up_counter(self) -> None:
        """Raise the counter to the highest partition: an older database may have partitions beyond it."""
        newest = await self._partitions.find_one({}, {"_id": 1}, sort=[("_id", -1)])
        if newest is not None:
            await self._counters.update_one({"_id": _COUNTER}, {"$max": {"seq": newest["_id"]}}, upsert=True)

    async def _highest(self) -> int:
        """Return the highest number of a partition, or of one that entities name although its document is missing."""
        partition = await self._partitions.find_one({}, {"_id": 1}, sort=[("_id", -1)])
        numbered = {"segment_id": {"$gt": 0}}
        entity = await self._entities.find_one(numbered, {"segment_id": 1}, sort=[("segment_id", -1)])
        return max(int(partition["_id"]) if partition else 0, int(entity["segment_id"]) if entity else 0)

    async def _insert_missing(self, ids: Sequence[int], claims: Sequence[int], placement: str) -> set[int]:
        """Insert the partitions that do not exist yet; return their numbers."""
        placed = {"placement": placement} if placement else {}
        inserts = [
            UpdateOne(
                {"_id": segment_id},
                {"$setOnInsert": {"bot_count": claimed, **placed}, "$currentDate": {"claimed_at": True}},
                upsert=True,
            )
            for segment_id, claimed in zip(ids, claims, strict=True)
        ]
        try:
            made = (await self._partitions.bulk_write(inserts, ordered=False)).upserted_ids or {}
            return {int(segment_id) for segment_id in made.values()}
        except BulkWriteError as error:
            met_existing(error)
            return {int(upserted["_id"]) for upserted in (error.details or {}).get("upserted", [])}


def spread(count: int, rooms: Sequence[Room], rng: random.Random) -> Counter[int]:
    """Distribute *count* entities over segments: at random among the preferred ones until those are full."""
    chosen: Counter[int] = Counter()
    for preference in Preference:
        free = {room.segment_id: room.free for room in rooms if room.preference is preference}
        while free and chosen.total() < count:
            segment_id = rng.choice(list(free))
            chosen[segment_id] += 1
            free[segment_id] -= 1
            if free[segment_id] == 0:
                del free[segment_id]
    return chosen


_OWNED_AND_OCCUPIED = {"$and": [LIVE, {"$gt": ["$bot_count", 0]}]}
_PREFERENCE = {
    "$cond": [
        LIVE,
        {"$cond": [{"$gt": ["$bot_count", 0]}, int(Preference.OWNED_AND_OCCUPIED), int(Preference.OWNED)]},
        int(Preference.UNOWNED),
    ]
}
