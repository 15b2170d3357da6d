"""The queue of notifications in MongoDB: none is lost when a process dies, each is sent at least once.

A lane has the notifications of one entity for one receiver, which are sent one after another, the oldest first. Sent
ones are kept for a day, so that an event that is repeated within that time is not sent again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import ASCENDING, ReturnDocument
from pymongo.errors import DuplicateKeyError

from libs.core.store.client import Database, Document, StoreConflict, translated

COLLECTION = "notifications"
GIVEN_UP_AFTER = timedelta(days=1)
MOST_WAITING = 10_000
MOST_PER_LANE = 200

_COUNTER = "notifications"
_KEPT = timedelta(days=1)
# Longer than an attempt: of a process that died in it.
_CLAIM_SECONDS = 60.0


@dataclass(frozen=True)
class Webhook:
    """Where a notification goes. *is_own*: to the webhook of the entity's owner, with its *url* and *secret*.

    Attributes:
        url: "" for the operator's, which is in the settings.
        secret: a reference, resolved for *owner*; None: unsigned.
    """

    is_own: bool = False
    url: str = field(default="", repr=False)
    secret: Mapping[str, Any] | None = field(default=None, repr=False)
    owner: str = ""

    @property
    def name(self) -> str:
        """`own` or `all`, as in the metrics."""
        return "own" if self.is_own else "all"


@dataclass(frozen=True)
class Entry:
    """A notification to be queued. *key*: as of a Notice; *body*: without id and count."""

    id: str
    entity_id: str
    event: str
    key: str
    webhook: Webhook
    body: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True)
class Queued:
    """A notification in the queue, claimed by this process.

    Attributes:
        count: the number of events that are joined in it.
        attempts: failed ones so far.
        created_at: when the first of its events was queued.
    """

    id: str
    entity_id: str
    event: str
    webhook: Webhook
    body: Mapping[str, Any]
    count: int
    attempts: int
    created_at: datetime


@dataclass(frozen=True)
class Claimed:
    """The notifications that are due, and the seconds until the next one is; None without any."""

    due: Sequence[Queued]
    next_seconds: float | None


class NotificationStore:
    """The collection ``notifications`` of a service's database. Its methods raise StoreUnavailable.

    Args:
        most_waiting, most_per_lane: beyond them, notifications are dropped.
    """

    def __init__(
        self, database: Database, *, most_waiting: int = MOST_WAITING, most_per_lane: int = MOST_PER_LANE
    ) -> None:
        self._queue = database[COLLECTION]
        self._counters = database["counters"]
        self._most_waiting = most_waiting
        self._most_per_lane = most_per_lane

    async def ensure_indexes(self) -> None:
        """Create the indexes. May be repeated."""
        with translated():
            await self._queue.create_index(
                [("lane", ASCENDING), ("position", ASCENDING)],
                name="waiting",
                partialFilterExpression={"waiting": True},
            )
            await self._queue.create_index(
                [("lane", ASCENDING), ("event", ASCENDING), ("key", ASCENDING)], name="event"
            )
            await self._queue.create_index("expires_at", name="expires_at_ttl", expireAfterSeconds=0)

    async def put(self, entry: Entry, *, coalesce_seconds: float | None = None) -> bool:
        """Queue *entry* behind the others of its lane, unless it is known. May be repeated.

        Args:
            coalesce_seconds: time in which notifications of this event are joined to one; None: never.

        Returns:
            False when the queue is full, and *entry* was dropped.
        """
        lane, now = _lane(entry), datetime.now(UTC)
        known: Document = {"lane": lane, "event": entry.event, "key": entry.key}
        with translated():
            if await self._queue.find_one({"$or": [{"_id": entry.id}, known]}, {"_id": 1}) is not None:
                return True
            if coalesce_seconds is not None and await self._joined(entry, lane):
                return True
            if await self._is_full(lane):
                return False
            counter: Document | None = await self._counters.find_one_and_update(
                {"_id": _COUNTER}, {"$inc": {"seq": 1}}, upsert=True, return_document=ReturnDocument.AFTER
            )
            due_at = now
            if coalesce_seconds is not None:
                since = now - timedelta(seconds=coalesce_seconds)
                last = await self._queue.find_one(
                    {"lane": lane, "event": entry.event, "sent_at": {"$gt": since}}, sort=[("sent_at", -1)]
                )
                if last is not None:
                    due_at = last["sent_at"] + timedelta(seconds=coalesce_seconds)
            else:
                # What waits only to be joined by more of its kind must not hold up other events.
                waits: Document = {"lane": lane, "waiting": True, "attempts": 0, "next_at": {"$gt": now}}
                await self._queue.update_many({**waits, "claimed": {"$exists": False}}, {"$set": {"next_at": now}})
            document = {
                "_id": entry.id,
                "lane": lane,
                "entity_id": entry.entity_id,
                "event": entry.event,
                "key": entry.key,
                "webhook": _stored(entry.webhook),
                "body": dict(entry.body),
                "count": 1,
                "attempts": 0,
                "position": counter["seq"] if counter is not None else 0,
                "waiting": True,
                "next_at": due_at,
                "created_at": now,
                "expires_at": now + 2 * GIVEN_UP_AFTER,
            }
        try:
            with translated():
                await self._queue.insert_one(document)
        except (DuplicateKeyError, StoreConflict):
            return True  # queued by an earlier owner of the entity at the same time
        return True

    async def claim(self, limit: int = 50) -> Claimed:
        """Claim the first notification of each lane that is due; send, and settle each within a minute."""
        heads: list[Document] = [
            {"$match": {"waiting": True}},
            {"$sort": {"lane": ASCENDING, "position": ASCENDING}},
            {"$group": {"_id": "$lane", "first": {"$first": "$_id"}, "next_at": {"$first": "$next_at"}}},
            {"$sort": {"next_at": ASCENDING}},
            {"$limit": limit + 1},
        ]
        now = datetime.now(UTC)
        due: list[Queued] = []
        next_seconds: float | None = None
        with translated():
            async for head in await self._queue.aggregate(heads):
                seconds = (head["next_at"] - now).total_seconds()
                if seconds > 0 or len(due) >= limit:
                    next_seconds = max(0.0, seconds)
                    break
                claimed = await self._queue.find_one_and_update(
                    {"_id": head["first"], "waiting": True, "next_at": {"$lte": now}},
                    # Another process sends it only after that; it is settled before.
                    {"$set": {"next_at": now + timedelta(seconds=_CLAIM_SECONDS), "claimed": True}},
                )
                if claimed is not None:
                    due.append(_queued(claimed))
        return Claimed(due, next_seconds)

    async def sent(self, queued: Queued) -> None:
        """Note that it was sent. May be repeated."""
        await self._settle(
            queued, {"$set": {"sent_at": datetime.now(UTC), "expires_at": datetime.now(UTC) + _KEPT}}, is_over=True
        )

    async def given_up(self, queued: Queued) -> None:
        """Note that it will not be sent. May be repeated."""
        await self._settle(queued, {"$set": {"given_up_at": datetime.now(UTC)}}, is_over=True)

    async def failed(self, queued: Queued, again_in_seconds: float) -> None:
        """Note a failed attempt, to be repeated after that time."""
        again_at = datetime.now(UTC) + timedelta(seconds=again_in_seconds)
        await self._settle(queued, {"$set": {"next_at": again_at}, "$inc": {"attempts": 1}}, is_over=False)

    async def waiting(self) -> int:
        """Return the number of notifications in the queue."""
        with translated():
            return await self._queue.count_documents({"waiting": True}, hint="waiting")

    async def _settle(self, queued: Queued, change: Document, *, is_over: bool) -> None:
        gone = {"claimed": ""} | ({"waiting": ""} if is_over else {})
        with translated():
            await self._queue.update_one({"_id": queued.id, "waiting": True}, {**change, "$unset": gone})

    async def _joined(self, entry: Entry, lane: str) -> bool:
        """Join *entry* to a waiting notification of its kind that is not being sent."""
        result = await self._queue.update_one(
            {
                "lane": lane,
                "event": entry.event,
                "waiting": True,
                # One that is being sent has its content already; of a process that died in it, it comes again.
                "claimed": {"$exists": False},
            },
            {
                "$inc": {"count": 1},
                "$set": {"body": dict(entry.body), "key": entry.key, "webhook": _stored(entry.webhook)},
            },
        )
        return result.modified_count > 0

    async def _is_full(self, lane: str) -> bool:
        waiting: Document = {"waiting": True}
        own = await self._queue.count_documents({"lane": lane, **waiting}, limit=self._most_per_lane)
        if own >= self._most_per_lane:
            return True
        most = self._most_waiting
        return await self._queue.count_documents(waiting, limit=most, hint="waiting") >= most


def _lane(entry: Entry) -> str:
    return f"{entry.webhook.name} {entry.entity_id}"


def _stored(webhook: Webhook) -> Document:
    return {
        "is_own": webhook.is_own,
        "url": webhook.url,
        "secret": dict(webhook.secret) if webhook.secret is not None else None,
        "owner": webhook.owner,
    }


def _queued(document: Document) -> Queued:
    stored = document["webhook"]
    return Queued(
        id=str(document["_id"]),
        entity_id=str(document["entity_id"]),
        event=str(document["event"]),
        webhook=Webhook(bool(stored["is_own"]), str(stored["url"]), stored.get("secret"), str(stored["owner"])),
        body=document["body"],
        count=int(document["count"]),
        attempts=int(document["attempts"]),
        created_at=document["created_at"],
    )
