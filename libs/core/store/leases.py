"""Leases of segments and of the leadership, by the database server's clock.

Each operation is one conditional update of one document that compares with ``$$NOW``, so no client's clock is
involved and two clients can never both succeed. The write must reach a majority: a lease that a failover could roll
back is worthless. The counter ``epoch`` increases with every acquisition and never decreases, also across releases.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pymongo
from pymongo import ReturnDocument
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.write_concern import WriteConcern

from libs.core.leases.lease import (
    Holder,
    Leadership,
    Lease,
    LeaseHeld,
    LeaseLost,
    LeaseView,
    SegmentMissing,
    SegmentView,
)
from libs.core.store.client import StoreUnavailable, translated

_Document = dict[str, Any]
_SURVEY_BATCH = 1000
"""Documents decoded in one step; the event loop runs in between."""


@dataclass(frozen=True, slots=True)
class _Grant:
    """The result of an acquisition or renewal."""

    epoch: int
    proven_until: float


class LeaseStore:
    """The leases of the segments, in their documents in ``partitions``. Needs no index beyond the primary one.

    Args:
        life_seconds: duration of a lease from each renewal on.
        timeout_seconds: the limit of each request, unless a call names a shorter one.
        clock: the process's monotonic clock.
    """

    def __init__(
        self,
        database: AsyncDatabase[_Document],
        life_seconds: float,
        *,
        timeout_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.life_seconds = life_seconds
        self._timeout_seconds = timeout_seconds
        self._partitions = database.get_collection("partitions", write_concern=WriteConcern("majority"))
        self._leases = _Leases(self._partitions, life_seconds, clock)

    async def acquire(self, segment_id: int, holder: Holder, *, timeout_seconds: float | None = None) -> Lease:
        """Acquire the lease of *segment_id* with a new epoch, if it is free or was held by this process before.

        May be repeated: an own lease is acquired again.

        Raises:
            LeaseHeld: by another process.
            SegmentMissing: there is no such segment.
            StoreUnavailable: outcome unknown; the lease may be held by *holder* now.
        """
        async with _limited(timeout_seconds or self._timeout_seconds):
            document, grant = await self._leases.acquire(segment_id, holder, same_host_takes_over=True)
        if document is None:
            raise SegmentMissing(segment_id)
        if grant is None:
            by, remaining_seconds = _holder_of(document), document["remaining_milliseconds"] / 1000
            raise LeaseHeld(_name(segment_id), by, remaining_seconds)
        return Lease(segment_id, holder, grant.epoch, grant.proven_until)

    async def renew(self, lease: Lease, *, timeout_seconds: float | None = None) -> Lease:
        """Extend *lease* and return it with its new proof. May be repeated.

        Raises:
            LeaseLost: stop its containers now, unless it was superseded.
            StoreUnavailable: outcome unknown; keep the old proof.
        """
        async with _limited(timeout_seconds or self._timeout_seconds):
            proven_until = await self._leases.renew(lease.segment_id, lease.holder, lease.epoch)
            if proven_until is None:
                superseded = await self._leases.superseded(lease.segment_id, lease.holder, lease.epoch)
                raise LeaseLost(_name(lease.segment_id), lease.epoch, superseded=superseded)
        return replace(lease, proven_until=proven_until)

    async def release(self, lease: Lease, *, timeout_seconds: float | None = None) -> None:
        """Release *lease*, so that it can be acquired at once. May be repeated; a lost lease is not changed.

        Raises:
            StoreUnavailable: outcome unknown; it expires in any case.
        """
        async with _limited(timeout_seconds or self._timeout_seconds):
            await self._leases.release(lease.segment_id, lease.holder, lease.epoch)

    async def superseded(self, lease: Lease, *, timeout_seconds: float | None = None) -> bool:
        """Whether a later process of the same worker, on the same host, has taken over *lease*.

        Raises:
            StoreUnavailable: unknown.
        """
        async with _limited(timeout_seconds or self._timeout_seconds):
            return await self._leases.superseded(lease.segment_id, lease.holder, lease.epoch)

    async def survey(self, *, timeout_seconds: float | None = None) -> list[SegmentView]:
        """Return all segments with entities or a live lease, by number, as of one query.

        Raises:
            StoreUnavailable: unknown; it does not mean that there are none.
        """
        segments = []
        async with _limited(timeout_seconds or max(self._timeout_seconds, 10.0)):
            wanted = {"$or": [{"bot_count": {"$gt": 0}}, {"$expr": LIVE}]}
            fields = {"bot_count": 1, "lease": 1, "remaining_milliseconds": _REMAINING}
            async for document in self._partitions.find(wanted, fields, batch_size=_SURVEY_BATCH):
                segments.append(_segment(document))
        segments.sort(key=lambda segment: segment.segment_id)
        return segments

    async def live(self, *, timeout_seconds: float | None = None) -> list[LeaseView]:
        """Return the live leases, by segment. Errors as survey()."""
        survey = await self.survey(timeout_seconds=timeout_seconds)
        return [segment.lease for segment in survey if segment.lease is not None]

    async def reachable(self, *, timeout_seconds: float | None = None) -> None:
        """Return if segments can be read now.

        Raises:
            StoreUnavailable: they cannot.
        """
        async with _limited(timeout_seconds or self._timeout_seconds):
            await self._partitions.find_one({}, {"_id": 1})


class LeadershipStore:
    """The lease of the leading master, a document of its own in ``leadership``. Arguments as for LeaseStore."""

    def __init__(
        self,
        database: AsyncDatabase[_Document],
        life_seconds: float,
        *,
        timeout_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        name: str = "master",
    ) -> None:
        self.life_seconds = life_seconds
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._collection = database.get_collection("leadership", write_concern=WriteConcern("majority"))
        self._leases = _Leases(self._collection, life_seconds, clock)

    async def acquire(self, holder: Holder, *, timeout_seconds: float | None = None) -> Leadership:
        """Become the leader if there is none. Only the same process may acquire its own leadership again.

        Raises:
            LeaseHeld: by another master.
            StoreUnavailable: outcome unknown; this process may be the leader now.
        """
        async with _limited(timeout_seconds or self._timeout_seconds):
            document, grant = await self._leases.acquire(self._name, holder, same_host_takes_over=False)
            if document is None:
                # The first master of this database. Of several concurrent ones, the first inserts the document.
                await self._collection.update_one({"_id": self._name}, {"$setOnInsert": {"lease": None}}, upsert=True)
                document, grant = await self._leases.acquire(self._name, holder, same_host_takes_over=False)
        if document is None:
            raise StoreUnavailable("the leadership document was removed while it was acquired")
        if grant is None:
            raise LeaseHeld("leadership", _holder_of(document), document["remaining_milliseconds"] / 1000)
        return Leadership(holder, grant.epoch, grant.proven_until)

    async def renew(self, leadership: Leadership, *, timeout_seconds: float | None = None) -> Leadership:
        """Extend it and return it with its new proof. May be repeated.

        Raises:
            LeaseLost: stop leading now.
            StoreUnavailable: outcome unknown; keep the old proof.
        """
        async with _limited(timeout_seconds or self._timeout_seconds):
            proven_until = await self._leases.renew(self._name, leadership.holder, leadership.epoch)
        if proven_until is None:
            raise LeaseLost("leadership", leadership.epoch, superseded=False)
        return replace(leadership, proven_until=proven_until)

    async def release(self, leadership: Leadership, *, timeout_seconds: float | None = None) -> None:
        """Release it, so that another master may lead at once. May be repeated. Errors as LeaseStore.release()."""
        async with _limited(timeout_seconds or self._timeout_seconds):
            await self._leases.release(self._name, leadership.holder, leadership.epoch)

    async def leader(self, *, timeout_seconds: float | None = None) -> Holder | None:
        """Return the current leadership; None without a leader. Raises StoreUnavailable."""
        async with _limited(timeout_seconds or self._timeout_seconds):
            document = await self._collection.find_one({"_id": self._name, "$expr": LIVE}, {"lease": 1})
        return _holder_of(document) if document is not None and document["lease"].get("worker_id") else None


LIVE = {"$gt": ["$lease.expires_at", "$$NOW"]}
"""True in an expression when there is a lease that has not expired; a missing or null date compares as lower."""
_REMAINING = {"$subtract": ["$lease.expires_at", "$$NOW"]}
_EPOCH = {"$ifNull": ["$lease.epoch", 0]}
_STARTED_AT = {"$ifNull": ["$lease.started_at_milliseconds", 0]}


class _Leases:
    """The conditional updates of the field ``lease``, the same for segments and leadership."""

    def __init__(self, collection: Any, life_seconds: float, clock: Callable[[], float]) -> None:
        self._collection = collection
        self._life_seconds = life_seconds
        self._clock = clock
        self._expiry = {"$add": ["$$NOW", round(life_seconds * 1000)]}

    async def acquire(
        self, document_id: int | str, holder: Holder, *, same_host_takes_over: bool
    ) -> tuple[Mapping[str, Any] | None, _Grant | None]:
        """Return the document after the attempt (None: missing), and the grant if *holder* got the lease."""
        own: list[_Document] = [{"$eq": ["$lease.instance_id", _literal(holder.instance_id)]}]
        if same_host_takes_over:
            # Not the other way round: an older frozen process must not take it from its successor.
            not_later = {"$lte": [_STARTED_AT, holder.started_at_milliseconds]}
            own.append({"$and": [{"$eq": ["$lease.host", _literal(holder.host)]}, not_later]})
        may_take = {
            "$or": [
                {"$not": [LIVE]},
                {"$and": [{"$eq": ["$lease.worker_id", _literal(holder.worker_id)]}, {"$or": own}]},
            ]
        }
        granted = {
            "worker_id": _literal(holder.worker_id),
            "instance_id": _literal(holder.instance_id),
            "host": _literal(holder.host),
            "started_at_milliseconds": holder.started_at_milliseconds,
            "epoch": {"$add": [_EPOCH, 1]},
            "expires_at": self._expiry,
        }
        # One request that either grants or returns the current holder: no second read of a possibly different state.
        update = [{"$set": {"lease": {"$cond": [may_take, granted, "$lease"]}}}]
        sent = self._clock()
        document = await self._collection.find_one_and_update(
            {"_id": document_id},
            update,
            projection={"lease": 1, "remaining_milliseconds": _REMAINING},
            return_document=ReturnDocument.AFTER,
        )
        if document is None or _holder_of(document) != holder:
            return document, None
        return document, _Grant(document["lease"]["epoch"], sent + self._life_seconds)

    async def renew(self, document_id: int | str, holder: Holder, epoch: int) -> float | None:
        """Return until when it is proven; None when it is no longer held. An expired lease stays lost."""
        sent = self._clock()
        result = await self._collection.update_one(
            {**_held(document_id, holder, epoch), "$expr": LIVE}, [{"$set": {"lease.expires_at": self._expiry}}]
        )
        return sent + self._life_seconds if result.matched_count == 1 else None

    async def release(self, document_id: int | str, holder: Holder, epoch: int) -> None:
        """End it now, and keep the epoch for the next owner."""
        ended = {"worker_id": None, "instance_id": None, "host": None, "epoch": "$lease.epoch", "expires_at": "$$NOW"}
        # $set merges documents, so the fields are named one by one.
        update = [{"$set": {f"lease.{field}": value for field, value in ended.items()}}]
        await self._collection.update_one(_held(document_id, holder, epoch), update)

    async def superseded(self, document_id: int | str, holder: Holder, epoch: int) -> bool:
        """Whether a later process of the same name on the same host has acquired the lease since *epoch*."""
        document = await self._collection.find_one({"_id": document_id}, {"lease": 1})
        lease = (document or {}).get("lease") or {}
        return bool(
            lease.get("epoch", 0) > epoch
            and lease.get("worker_id") == holder.worker_id
            and lease.get("host") == holder.host
            and lease.get("instance_id") != holder.instance_id
        )


def _held(document_id: int | str, holder: Holder, epoch: int) -> _Document:
    return {
        "_id": document_id,
        "lease.worker_id": holder.worker_id,
        "lease.instance_id": holder.instance_id,
        "lease.epoch": epoch,
    }


def _literal(text: str) -> _Document:
    # An id from outside may begin with "$", which an expression would read as a field.
    return {"$literal": text}


def _name(segment_id: int) -> str:
    return f"segment {segment_id}"


def _holder_of(document: Mapping[str, Any]) -> Holder:
    lease = document["lease"]
    return Holder(lease["worker_id"], lease["instance_id"], lease["host"], lease.get("started_at_milliseconds") or 0)


def _segment(document: Mapping[str, Any]) -> SegmentView:
    segment_id = int(document["_id"])
    remaining = document.get("remaining_milliseconds")
    lease = None
    if remaining is not None and remaining > 0 and document["lease"].get("worker_id") is not None:
        lease = LeaseView(segment_id, _holder_of(document), document["lease"]["epoch"], remaining / 1000)
    return SegmentView(segment_id, int(document.get("bot_count", 0)), lease)


@contextlib.asynccontextmanager
async def _limited(timeout_seconds: float) -> AsyncIterator[None]:
    """Apply the driver's own time limit to all requests of the block, and translate its errors."""
    try:
        # The driver's limit ends the request on the server as well. The second one covers a driver that does not
        # return: the renewal of a lease must not wait for it.
        async with asyncio.timeout(timeout_seconds + 0.25):
            with translated(), pymongo.timeout(timeout_seconds):
                yield
    except TimeoutError as error:
        raise StoreUnavailable(f"no answer from MongoDB within {timeout_seconds:g} s") from error
