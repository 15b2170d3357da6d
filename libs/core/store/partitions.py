"""Slots in partitions: the segment of a new entity, and the number of entities in each segment.

`bot_count` counts the entities of a partition and the slots claimed for inserts. It is changed
before an insert and after a removal, so that it may be too high after a crash, but never too low: a live
entity is never in a partition that counts 0. :meth:`PartitionStore.repair` corrects a count that is too high.

Partitions are opened sparingly (:mod:`libs.core.store.partition_room`).
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bson import MinKey
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from libs.core.errors import Retryable
from libs.core.observability.log import get_logger
from libs.core.placement import key_of
from libs.core.store.client import Database, Document, translated
from libs.core.store.partition_room import PartitionRoom, spread

log = get_logger(__name__)

_CONTENDED_SECONDS = 0.02


class SlotExpired(Retryable):
    """A claimed slot was not used in time, so a repair may have discounted it: claim another one."""

    def __init__(self, segment_id: int) -> None:
        super().__init__(f"the slot claimed in segment {segment_id} was not used in time")
        self.segment_id = segment_id


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one entity in a segment.

    `repairs` identifies the count that includes this slot: a repair starts a new count without it.
    `was_empty` is True when the partition counted 0 before, so that it needs an owner.
    """

    segment_id: int
    repairs: int = 0
    claimed_monotonic: float = 0.0
    was_empty: bool = False


@dataclass(frozen=True, slots=True)
class Repaired:
    """A partition whose count was wrong, and the correct count."""

    segment_id: int
    counted: int
    real: int


class PartitionStore:
    """The collection `partitions` and the counter of their ids. Never changes the leases in the same documents.

    Args:
        entities: the name of the collection whose documents are counted.
        max_per_partition: the cap above which no slot is claimed.
        claim_life_seconds: time after which an unused slot may be discounted.
        rng: chooses among the partitions with room.
    """

    def __init__(
        self,
        database: Database,
        entities: str,
        max_per_partition: int,
        *,
        claim_life_seconds: float = 30.0,
        rng: random.Random | None = None,
    ) -> None:
        if max_per_partition < 1:
            raise ValueError(f"a partition must hold at least one entity, not {max_per_partition}")
        self._partitions = database["partitions"]
        self._room = PartitionRoom(database, entities, max_per_partition)
        self._entities = database[entities]
        self._cap = max_per_partition
        self._claim_life_seconds = claim_life_seconds
        self._claiming = asyncio.Lock()
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing

    async def ensure_indexes(self) -> None:
        """Create the index that finds partitions with room. May be repeated."""
        with translated():
            await self._partitions.create_index("bot_count")

    async def occupied(self) -> dict[int, int]:
        """Return the number of entities of each non-empty partition: the segments that need an owner."""
        with translated():
            found = self._partitions.find({"bot_count": {"$gt": 0}}, {"bot_count": 1})
            return {int(partition["_id"]): int(partition["bot_count"]) async for partition in found}

    async def claim(self, count: int, placement: str = "") -> list[Slot]:
        """Claim *count* slots: in partitions with room, the best ones first, and in new ones when none has room.

        Only in partitions whose entities all have that *placement* (:mod:`libs.core.placement`).

        Best are partitions with a live owner and entities, then those with a live owner; random among equals. Use the
        slots at once (:meth:`check`) or release them.

        Raises:
            StoreUnavailable: some slots may have been claimed; the repair finds them.
        """
        slots: list[Slot] = []
        # All claims go to the same few partitions; at least the claims of one process are serialized.
        async with self._claiming:
            while len(slots) < count:
                with translated():
                    taken = await self._claim_some(count - len(slots), placement)
                slots += taken
                if not taken:
                    await asyncio.sleep(self._rng.uniform(0, _CONTENDED_SECONDS))
        return slots

    async def claim_in(self, segment_id: int, placement: str) -> Slot | None:
        """Claim a slot in this partition; None unless it accepts one, see :meth:`accepts`. Used like :meth:`claim`."""
        with translated():
            accepting = await self._room.accepting(segment_id, placement)
            slots = await self._take(segment_id, 1, accepting)
        return slots[0] if slots else None

    async def accepts(self, segment_id: int, placement: str) -> bool:
        """Whether this partition has room for an entity of *placement*, and an owner that is not cordoned."""
        with translated():
            accepting = await self._room.accepting(segment_id, placement)
            return await self._partitions.find_one({"_id": segment_id, **accepting}, {"_id": 1}) is not None

    def check(self, slots: Iterable[Slot]) -> None:
        """Call it right before an insert.

        Raises:
            SlotExpired: this process was delayed for so long that a slot may have been discounted.
        """
        if late := self._late(slots):
            raise SlotExpired(late[0].segment_id)

    async def confirm(self, slots: Iterable[Slot]) -> None:
        """Call it right after an insert: claim the slots again that a repair discounted meanwhile.

        Regardless of the cap. Sends no request unless the insert took very long.
        """
        late = Counter((slot.segment_id, slot.repairs) for slot in self._late(slots))
        with translated():
            for (segment_id, repairs), number in late.items():
                # A repair after the insert has counted the entities; then this count is too high, until the next one.
                await self._partitions.update_one(
                    {"_id": segment_id, "repairs": {"$gt": repairs}}, {"$inc": {"bot_count": number}}
                )

    async def held_slots(self, segment_ids: Iterable[int]) -> dict[int, Slot]:
        """Return what to pass to :meth:`release` after an entity of each segment was removed. Read before removing."""
        with translated():
            found = self._partitions.find({"_id": {"$in": list(set(segment_ids))}}, {"repairs": 1})
            return {int(p["_id"]): Slot(int(p["_id"]), int(p.get("repairs", 0))) async for p in found}

    async def release(self, slots: Sequence[Slot]) -> bool:
        """Release slots; return whether that emptied a partition. A slot that a repair discounted is ignored."""
        numbers = Counter((slot.segment_id, slot.repairs) for slot in slots)
        with translated():
            left = await asyncio.gather(
                *(
                    self._partitions.find_one_and_update(
                        {"_id": segment_id, "repairs": repairs or {"$in": [0, None]}, "bot_count": {"$gte": number}},
                        {"$inc": {"bot_count": -number}},
                        {"bot_count": 1},
                        return_document=ReturnDocument.AFTER,
                    )
                    for (segment_id, repairs), number in numbers.items()
                )
            )
        return any(partition is not None and partition["bot_count"] == 0 for partition in left)

    async def repair(self) -> list[Repaired]:
        """Correct each wrong count. Safe at any time and in several processes.

        A partition in which a slot was claimed within the last *claim_life_seconds* is skipped, since its entity may
        not be inserted yet, unless its count is too low even so. Entities without a segment, such as those inserted by
        hand, get one.
        """
        await self._place_homeless()
        with translated():
            real = await self._real_counts()
            counted = {
                int(p["_id"]): int(p.get("bot_count", 0)) async for p in self._partitions.find({}, {"bot_count": 1})
            }
        repaired = []
        for segment_id in sorted(real.keys() | counted.keys()):
            if real.get(segment_id, 0) != counted.get(segment_id, 0):
                found = await self._repair_one(segment_id)
                if found is not None:
                    log.warning("partition count repaired", segment=segment_id, counted=found.counted, real=found.real)
                    repaired.append(found)
        return repaired

    def _late(self, slots: Iterable[Slot]) -> list[Slot]:
        """Return the counts that a repair may have changed."""
        now = time.monotonic()
        return [slot for slot in slots if now - slot.claimed_monotonic > self._claim_life_seconds / 2]

    async def placement_of(self, segment_id: int) -> str:
        """Return the labels that the worker of this segment must have, as text. It never changes."""
        with translated():
            partition = await self._partitions.find_one({"_id": segment_id}, {"placement": 1})
        found = partition.get("placement") if partition is not None else None
        return found if isinstance(found, str) else ""

    async def _claim_some(self, count: int, placement: str) -> list[Slot]:
        """Claim at most *count* slots; none when other processes were faster."""
        rooms = await self._room.find(count, placement)
        if not rooms:
            return [
                slot
                for opened in await self._room.open(count, placement)
                for slot in [Slot(opened.segment_id, 0, opened.claimed_monotonic, was_empty=True)] * opened.claimed
            ]
        slots: list[Slot] = []
        for segment_id, number in spread(count, rooms, self._rng).items():
            slots += await self._take(segment_id, number)
        return slots

    async def _take(self, segment_id: int, number: int, accepting: Document | None = None) -> list[Slot]:
        claimed = time.monotonic()
        after = await self._partitions.find_one_and_update(
            {**(accepting or {}), "_id": segment_id, "bot_count": {"$lte": self._cap - number}},
            {"$inc": {"bot_count": number}, "$currentDate": {"claimed_at": True}},
            {"bot_count": 1, "repairs": 1},
            return_document=ReturnDocument.AFTER,
        )
        if after is None:
            return []
        return [Slot(segment_id, int(after.get("repairs", 0)), claimed, int(after["bot_count"]) == number)] * number

    async def _real_counts(self) -> dict[int, int]:
        # Matches every entity, and is answered from the index on the segment alone.
        counting: list[Document] = [
            {"$match": {"segment_id": {"$gte": MinKey()}}},
            {"$group": {"_id": "$segment_id", "number": {"$sum": 1}}},
        ]
        groups = await self._entities.aggregate(counting)
        return {int(group["_id"]): int(group["number"]) async for group in groups if group["_id"] is not None}

    async def _repair_one(self, segment_id: int) -> Repaired | None:
        """Count this partition again, and write only if it was not changed and no slot in it was claimed meanwhile."""
        with translated():
            before: Document | None = await self._partitions.find_one({"_id": segment_id}, {"lease": 0})
            real = await self._entities.count_documents({"segment_id": segment_id})
            if before is None or "bot_count" not in before:
                return Repaired(segment_id, 0, real) if await self._begin_count(segment_id, real) else None
            if before["bot_count"] == real:
                return None
            as_read = {
                "_id": segment_id,
                "bot_count": before["bot_count"],
                "claimed_at": before.get("claimed_at"),
            }
            if before["bot_count"] > real:
                oldest_claim = {"$subtract": ["$$NOW", round(self._claim_life_seconds * 1000)]}
                as_read["$expr"] = {"$lt": [{"$ifNull": ["$claimed_at", 0]}, oldest_claim]}
            result = await self._partitions.update_one(as_read, {"$set": {"bot_count": real}, "$inc": {"repairs": 1}})
        return Repaired(segment_id, int(before["bot_count"]), real) if result.modified_count else None

    async def _begin_count(self, segment_id: int, real: int) -> bool:
        """Count a partition for the first time. Return False when another process started to meanwhile."""
        try:
            await self._partitions.update_one(
                {"_id": segment_id, "bot_count": {"$exists": False}}, {"$set": {"bot_count": real}}, upsert=True
            )
        except DuplicateKeyError:
            return False
        await self._room.catch_up_counter()
        return True

    async def _place_homeless(self) -> None:
        with translated():
            found = self._entities.find({"segment_id": None}, {"config.placement": 1})
            homeless = [(entity["_id"], entity.get("config")) async for entity in found]
        for key, config in homeless:
            [slot] = await self.claim(1, key_of(config))
            self.check([slot])
            with translated():
                result = await self._entities.update_one(
                    {"_id": key, "segment_id": None}, {"$set": {"segment_id": slot.segment_id}}
                )
            if result.modified_count == 0:
                await self.release([slot])
            else:
                await self.confirm([slot])
