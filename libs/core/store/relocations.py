"""Orders to move single entities to other segments, in their documents. Each write is one conditional update.

The leading master orders a move; the owner of the entity's segment carries it out or refuses it. While an order is
valid, the owner starts nothing of an entity that is down, whichever process the owner is: so the owner that stopped it
may die, and a move that a frozen process sends late has no effect.

The field `relocation` of a document: `{id, from, to, revision, reason, deadline}`; after the move `moved_at` replaces
`deadline`. It stays, so that an entity does not move again soon.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import Counter

from libs.core.placement import key_of
from libs.core.store.client import Database, Document, translated
from libs.core.store.partitions import PartitionStore, Slot

MOVES = Counter(
    "runtime_entity_moves_total", "Entities that moved to another segment, by reason, as carried out here.", ["reason"]
)
FREED = Counter("runtime_compaction_segments_freed_total", "Segments whose last entity was moved away by compaction.")

FIELD = "relocation"
COMPACTION = "compaction"
PLACEMENT = "placement"
for _reason in (COMPACTION, PLACEMENT):
    MOVES.labels(_reason)  # exported as 0, so that the first one shows as an increase

ORDER_SECONDS = 150.0
"""How long an order is valid."""
STOP_SECONDS = 100.0
"""How much of that must be left when the entity is stopped, since it may use its grace period."""
_MARGIN_SECONDS = 1.0


@dataclass(frozen=True)
class Relocation:
    """One order to move an entity, or the last move of it. Times are Unix seconds by MongoDB's clock.

    Attributes:
        revision: of the entity when it was ordered; a changed entity does not move.
        deadline: until when the move is carried out; None after it.
        moved_at: None before the move.
    """

    id: str
    origin: int
    target: int
    revision: int
    reason: str
    deadline: float | None = None
    moved_at: float | None = None

    @classmethod
    def of(cls, document: Mapping[str, object]) -> "Relocation | None":
        """Return the one in an entity's *document*; None without a readable one."""
        value = document.get(FIELD)
        if not isinstance(value, Mapping) or not isinstance(value.get("id"), str):
            return None
        numbers = [value.get(name) for name in ("from", "to", "revision")]
        if not all(isinstance(number, int | float) for number in numbers):
            return None
        origin, target, revision = (int(number) for number in numbers)  # type: ignore[arg-type]
        return cls(
            value["id"],
            origin,
            target,
            revision,
            str(value.get("reason") or ""),
            _seconds(value.get("deadline")),
            _seconds(value.get("moved_at")),
        )

    def holds(self, segment_id: int, revision: int, now: float) -> bool:
        """Whether an owner of *segment_id* must not start the entity, if it is down."""
        is_same = (self.origin, self.revision) == (segment_id, revision)
        return is_same and self.deadline is not None and now < self.deadline + _MARGIN_SECONDS

    def may_stop(self, now: float) -> bool:
        """Whether there is enough time left to stop the entity for the move."""
        return self.deadline is not None and now < self.deadline - STOP_SECONDS

    def last_at(self) -> float:
        """Return when the entity moved last, or when the last order ends."""
        return max(self.moved_at or 0.0, self.deadline or 0.0)

    def __str__(self) -> str:
        """Return a text such as "compaction: from segment 3 to segment 7"."""
        return f"{self.reason}: from segment {self.origin} to segment {self.target}"


class RelocationStore:
    """The orders in the documents of the entities in *collection*. Raises StoreUnavailable."""

    def __init__(self, database: Database, collection: str, partitions: PartitionStore) -> None:
        self._entities = database[collection]
        self._partitions = partitions

    async def any_ordered(self) -> bool:
        """Whether a move is ordered and may still be carried out."""
        with translated():
            found = await self._entities.find_one({"$expr": {"$gt": [f"${FIELD}.deadline", "$$NOW"]}}, {"_id": 1})
        return found is not None

    async def order(
        self,
        unchanged: Mapping[str, object],
        *,
        origin: int,
        target: int,
        revision: int,
        reason: str,
        seconds: float = ORDER_SECONDS,
    ) -> bool:
        """Order the entity that is *unchanged* to move; return False when it has changed."""
        ordered: Document = {
            "id": uuid.uuid4().hex,
            "from": origin,
            "to": target,
            "revision": revision,
            "reason": reason,
            "deadline": {"$add": ["$$NOW", round(seconds * 1000)]},
        }
        with translated():
            result = await self._entities.update_one(
                {**unchanged, "segment_id": origin, "$expr": _NOT_ORDERED},
                # First removed: a stage that sets an object keeps the other fields of an earlier one.
                [{"$unset": FIELD}, {"$set": {FIELD: ordered}}],
            )
        return result.modified_count > 0

    async def refuse(self, entity_id: str, order: Relocation) -> None:
        """End *order*: the entity stays, and is not ordered to move again soon. May be repeated."""
        with translated():
            await self._entities.update_one(
                {"id": entity_id, f"{FIELD}.id": order.id, f"{FIELD}.moved_at": None},
                [{"$set": {f"{FIELD}.deadline": {"$subtract": ["$$NOW", round(_MARGIN_SECONDS * 1000)]}}}],
            )

    async def is_possible(self, order: Relocation, config: Mapping[str, object]) -> bool:
        """Whether the target of *order* has an owner, and room for an entity with this *config*, now."""
        return await self._partitions.accepts(order.target, key_of(config))

    async def carry_out(
        self,
        entity_id: str,
        config: Mapping[str, object],
        order: Relocation,
        expected: Mapping[str, object] | None = None,
    ) -> bool:
        """Move an entity, which runs nowhere, as ordered; return False when that is not possible any more.

        Only the owner of its segment may call it. May be repeated.

        Args:
            expected: further fields that must have these values (None: absent).

        Raises:
            StoreUnavailable: it may have moved.
        """
        slot = await self._partitions.claim_in(order.target, key_of(config))
        if slot is None:
            return False
        # A document of an older runtime has no revision.
        revision = order.revision or {"$in": [0, None]}
        as_ordered = {"id": entity_id, "segment_id": order.origin, f"{FIELD}.id": order.id, "revision": revision}
        still_valid = {"$expr": {"$gt": [f"${FIELD}.deadline", "$$NOW"]}}
        is_emptied = await self.change_segment(
            {**(expected or {}), **as_ordered, **still_valid},
            order.origin,
            slot,
            [{"$set": {"segment_id": slot.segment_id, f"{FIELD}.moved_at": "$$NOW"}}, {"$unset": list(MOVED_AWAY)}],
            order.reason,
        )
        if is_emptied and order.reason == COMPACTION:
            FREED.inc()
        return is_emptied is not None

    async def change_segment(
        self,
        unchanged: Mapping[str, object],
        origin: int,
        slot: Slot,
        update: Document | Sequence[Document],
        reason: str,
    ) -> bool | None:
        """Move the entity that is *unchanged* from the segment *origin* into *slot* by *update*.

        Returns:
            Whether the former segment is empty now; None when the entity has changed, and *slot* is released.

        Raises:
            StoreUnavailable: it may have moved.
        """
        self._partitions.check([slot])
        held = await self._partitions.held_slots([origin])
        with translated():
            result = await self._entities.update_one(unchanged, update)
        if not result.modified_count:
            await self._partitions.release([slot])
            return None
        MOVES.labels(reason).inc()
        await self._partitions.confirm([slot])
        return await self._partitions.release(list(held.values()))


MOVED_AWAY = (f"{FIELD}.deadline", "release.epoch")
"""Fields that a move to another segment removes: epochs of different segments cannot be compared."""

_NOT_ORDERED = {"$not": [{"$gt": [f"${FIELD}.deadline", "$$NOW"]}]}


def _seconds(value: object) -> float | None:
    if not isinstance(value, datetime):
        return None
    return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp()
