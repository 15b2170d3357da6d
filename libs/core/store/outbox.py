"""Events to be published: stored in MongoDB first, so that none is lost while NATS is down or this process crashes."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pymongo import ReturnDocument

from libs.core.store.client import Database, Document, translated

CLAIM_LIMIT = 100
"""Maximum number of events claimed at once."""

_COUNTER = "outbox"


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """An event that waits to be published. `id` lets the stream recognise a repetition.

    *alone*: no other event of its entity waited behind it when it was claimed.
    """

    id: str
    entity_id: str
    subject: str
    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    claimed_monotonic: float = 0.0
    alone: bool = False


class Outbox:
    """The collection `outbox`. Events of one entity are published in order, those of different entities in parallel.

    Args:
        claim_seconds: how long a claim reserves an event for the publishing process.
    """

    def __init__(self, database: Database, *, claim_seconds: float = 15.0) -> None:
        self._outbox = database["outbox"]
        self._counters = database["counters"]
        self.claim_seconds = claim_seconds

    async def ensure_indexes(self) -> None:
        """Create the index that finds the oldest events. May be repeated."""
        with translated():
            await self._outbox.create_index([("entity_id", 1), ("position", 1)])

    async def append(
        self,
        entity_id: str,
        subject: str,
        data: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        event_id: str | None = None,
    ) -> str:
        """Append an event behind the others of its entity and return its id.

        With a caller's *event_id* it may be repeated: an event that still waits is not added again, and one
        that was recently published is dropped by the stream.

        Raises:
            StoreUnavailable: added or not; add it again under the same id.
        """
        event_id = event_id or uuid.uuid4().hex
        with translated():
            counter: Document | None = await self._counters.find_one_and_update(
                {"_id": _COUNTER}, {"$inc": {"seq": 1}}, upsert=True, return_document=ReturnDocument.AFTER
            )
            await self._outbox.update_one(
                {"_id": event_id},
                {
                    "$setOnInsert": {
                        "entity_id": entity_id,
                        "subject": subject,
                        "data": data,
                        "headers": [[name, value] for name, value in (headers or {}).items()],
                        "position": counter["seq"] if counter is not None else 0,
                        "created_at": datetime.now(UTC),
                    }
                },
                upsert=True,
            )
        return event_id

    async def waits(self, entity_id: str) -> bool:
        """Whether an event of this entity waits."""
        with translated():
            return await self._outbox.find_one({"entity_id": entity_id}, {"_id": 1}) is not None

    async def claim(self, limit: int = CLAIM_LIMIT) -> list[OutgoingEvent]:
        """Claim the oldest event of each of up to *limit* entities for this process; publish and remove them."""
        first_of_each: list[Document] = [
            {"$sort": {"entity_id": 1, "position": 1}},
            {
                "$group": {
                    "_id": "$entity_id",
                    "first": {"$first": "$_id"},
                    "position": {"$first": "$position"},
                    "events": {"$sum": 1},
                }
            },
            {"$sort": {"position": 1}},
            {"$limit": limit},
        ]
        claimed: list[OutgoingEvent] = []
        with translated():
            async for group in await self._outbox.aggregate(first_of_each):
                begun = time.monotonic()
                document = await self._outbox.find_one_and_update(
                    {
                        "_id": group["first"],
                        "$expr": {"$lt": [{"$ifNull": ["$claimed_until", 0]}, "$$NOW"]},
                    },
                    [{"$set": {"claimed_until": {"$add": ["$$NOW", round(self.claim_seconds * 1000)]}}}],
                )
                if document is not None:
                    claimed.append(_event(document, begun, alone=group["events"] == 1))
        return claimed

    async def remove(self, event_id: str) -> None:
        """Remove a published event. May be repeated."""
        with translated():
            await self._outbox.delete_one({"_id": event_id})

    async def release(self, event_id: str) -> None:
        """Release the claim of an event that could not be published. May be repeated."""
        with translated():
            await self._outbox.update_one({"_id": event_id}, {"$unset": {"claimed_until": ""}})

    async def count(self) -> int:
        """Return the number of waiting events."""
        with translated():
            return await self._outbox.count_documents({})


def _event(document: Document, claimed_monotonic: float, *, alone: bool) -> OutgoingEvent:
    return OutgoingEvent(
        id=str(document["_id"]),
        entity_id=str(document["entity_id"]),
        subject=str(document["subject"]),
        data=bytes(document["data"]),
        headers=dict(document.get("headers", ())),
        claimed_monotonic=claimed_monotonic,
        alone=alone,
    )
