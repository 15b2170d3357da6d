"""The conditional updates of the field ``lease``, the same for segments and leadership."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter, Gauge
from pymongo import ReturnDocument

from libs.core.leases.lease import Holder, LeaseView
from libs.core.leases.store_clock import Difference, StoreClock
from libs.core.observability.log import get_logger
from libs.core.store.client import StoreUnavailable

log = get_logger(__name__)

CLOCK_JUMPS = Counter("runtime_store_clock_jumps_total", "Jumps of MongoDB's clock by more than 0.25 s.")
CLOCK_DIFFERENCE = Gauge(
    "runtime_store_clock_difference_seconds",
    "MongoDB's time minus the boot-time clock of the host, as a worker measures it; 0 before that.",
)

_Document = dict[str, Any]

LIVE = {"$gt": ["$lease.expires_at", "$$NOW"]}
"""True in an expression when there is a lease that has not expired; a missing or null date compares as lower."""
REMAINING = {"$subtract": ["$lease.expires_at", "$$NOW"]}
STORE_TIME = {"$toLong": "$$NOW"}
"""MongoDB's time in milliseconds."""
_FREE = {"$eq": [{"$ifNull": ["$lease.worker_id", None]}, None]}
"""Never held, or released."""
_CEDED = {"$eq": ["$lease.ceded", True]}
"""Held for workers of older versions alone: the holder has recorded until when its last containers may stop."""
_EPOCH = {"$ifNull": ["$lease.epoch", 0]}
_STARTED_AT = {"$ifNull": ["$lease.started_at_milliseconds", 0]}


@dataclass(frozen=True, slots=True)
class Grant:
    """The result of an acquisition."""

    epoch: int
    proven_until: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request for a lease.

    Attributes:
        holder: of the lease after the request; None without a holder.
        epoch: of that lease, or of the last one.
        remaining_seconds: until that lease ends, by MongoDB's clock.
        grant: None when the lease was not granted.
        is_sharp: whether the answer was fast enough to show a jump of MongoDB's clock.
    """

    holder: Holder | None
    epoch: int
    remaining_seconds: float
    grant: Grant | None
    is_sharp: bool


class LeaseUpdates:
    """The leases in the documents of one collection.

    Args:
        clock: the boot-time clock.
        store_clock: is updated from the answers, and limits the time at which a request has an effect; None: no limit.
    """

    def __init__(
        self, collection: Any, life_seconds: float, clock: Callable[[], float], store_clock: StoreClock | None = None
    ) -> None:
        self._collection = collection
        self._life_seconds = life_seconds
        self._clock = clock
        self._store_clock = store_clock
        self._expiry = {"$add": ["$$NOW", round(life_seconds * 1000)]}

    async def acquire(
        self,
        document_id: int | str,
        holder: Holder,
        limit_seconds: float,
        *,
        same_host_takes_over: bool,
        takes_lapsed: bool,
        of_epoch: int | None = None,
        former: LeaseView | None = None,
    ) -> Attempt | None:
        """Acquire the lease if it may be acquired; None when there is no such document.

        Args:
            limit_seconds: a request that arrives later has no effect.
            takes_lapsed: whether an expired lease of another holder may be acquired, and not only a released one.
            of_epoch: only with this epoch; None: with any.
            former: a live lease that may be taken over, exactly as it is: its holder is dead or agrees.

        Raises:
            StoreUnavailable: the request arrived too late.
        """
        sent = self._clock()
        in_time = self._in_time(sent, limit_seconds)
        own: list[_Document] = [{"$eq": ["$lease.instance_id", _literal(holder.instance_id)]}]
        if same_host_takes_over:
            # Not the other way round: an older frozen process must not take it from its successor.
            not_later = {"$lte": [_STARTED_AT, holder.started_at_milliseconds]}
            own.append({"$and": [{"$eq": ["$lease.host", _literal(holder.host)]}, not_later]})
        takeable = [_FREE, _CEDED, {"$and": [{"$eq": ["$lease.worker_id", _literal(holder.worker_id)]}, {"$or": own}]}]
        if takes_lapsed:
            same_epoch = {"$literal": True} if of_epoch is None else {"$eq": ["$lease.epoch", of_epoch]}
            takeable.append({"$and": [{"$not": [LIVE]}, same_epoch]})
        if former is not None:
            takeable.append({"$and": [LIVE, *_exactly(former)]})
        granted = {
            "worker_id": _literal(holder.worker_id),
            "instance_id": _literal(holder.instance_id),
            "host": _literal(holder.host),
            "started_at_milliseconds": holder.started_at_milliseconds,
            "boot_id": _literal(holder.boot_id),
            "epoch": {"$add": [_EPOCH, 1]},
            "expires_at": self._expiry,
        }
        if holder.public_key:
            granted["public_key"] = holder.public_key.hex()
        # One request that either grants or returns the current holder: no second read of a possibly different state.
        may_take = {"$and": [in_time, {"$or": takeable}]}
        document = await self._collection.find_one_and_update(
            {"_id": document_id},
            [{"$set": {"lease": {"$cond": [may_take, granted, "$lease"]}}}],
            projection={"lease": 1, "remaining": REMAINING, "in_time": in_time, "store_time": STORE_TIME},
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            return None
        is_sharp = self.note(sent, document["store_time"])
        if not document["in_time"]:
            raise StoreUnavailable("a request for a lease arrived too late")
        held_by = holder_of(document)
        lease: Mapping[str, Any] = document.get("lease") or {}
        epoch = int(lease.get("epoch", 0))
        grant = Grant(epoch, sent + self._life_seconds) if held_by == holder else None
        return Attempt(held_by, epoch, (document.get("remaining") or 0) / 1000, grant, is_sharp)

    async def renew(self, document_id: int | str, holder: Holder, epoch: int, limit_seconds: float) -> float | None:
        """Return until when it is proven; None when it is no longer held. An expired lease stays lost.

        A request that arrives later than *limit_seconds* after it was sent has no effect: its sender has given up by
        then, and the lease would be kept from all workers.
        """
        sent = self._clock()
        expected = {"$and": [LIVE, self._in_time(sent, limit_seconds)]}
        result = await self._collection.update_one(
            {**_held(document_id, holder, epoch), "lease.ceded": None, "$expr": expected},
            [{"$set": {"lease.expires_at": self._expiry}}],
        )
        return sent + self._life_seconds if result.matched_count == 1 else None

    async def release(self, document_id: int | str, holder: Holder, epoch: int) -> None:
        """End it now, and keep the epoch for the next owner."""
        ended = {"worker_id": None, "instance_id": None, "host": None, "epoch": "$lease.epoch", "expires_at": "$$NOW"}
        # $set merges documents, so the fields are named one by one.
        update = [{"$set": {f"lease.{field}": value for field, value in ended.items()}}, {"$unset": "lease.ceded"}]
        await self._collection.update_one(_held(document_id, holder, epoch), update)

    async def cede(self, document_id: int | str, holder: Holder, epoch: int, hold_seconds: float) -> bool:
        """Let others acquire it at once; False when it is not held any more. Older versions see it as held."""
        expires_at = {"$add": ["$$NOW", round(hold_seconds * 1000)]}
        result = await self._collection.update_one(
            {**_held(document_id, holder, epoch), "$expr": LIVE},
            [{"$set": {"lease.ceded": True, "lease.expires_at": expires_at}}],
        )
        return bool(result.matched_count == 1)

    async def still_held(self, document_id: int | str, holder: Holder, epoch: int) -> bool:
        """Whether the lease is held as before, so that a renewal without effect was late."""
        sent = self._clock()
        document = await self._collection.find_one(
            {**_held(document_id, holder, epoch), "$expr": LIVE}, {"store_time": STORE_TIME}
        )
        if document is not None:
            self.note(sent, document["store_time"])
        return document is not None

    async def successor(self, document_id: int | str, holder: Holder, epoch: int) -> Holder | None:
        """Return the other process that has acquired the lease since *epoch*; None without one."""
        document = await self._collection.find_one({"_id": document_id}, {"lease": 1})
        found = holder_of(document or {})
        if found is None or found.instance_id == holder.instance_id:
            return None
        return found if ((document or {}).get("lease") or {}).get("epoch", 0) > epoch else None

    def note(self, sent: float, store_milliseconds: int) -> bool:
        """Record MongoDB's time from the answer to a request of time *sent*; return whether the answer was fast."""
        if self._store_clock is None:
            return True
        difference = Difference.of(sent, self._clock(), store_milliseconds / 1000)
        jump = self._store_clock.note(difference)
        if jump:
            CLOCK_JUMPS.inc()
            log.error("MongoDB's clock jumped; check the clocks of its servers", jump_seconds=round(jump, 3))
        if difference.is_sharp:
            CLOCK_DIFFERENCE.set((difference.least + difference.most) / 2)
        return difference.is_sharp

    def _in_time(self, sent: float, limit_seconds: float) -> _Document:
        """Return the expression that is true as long as a request of time *sent* may have an effect."""
        latest = self._store_clock.latest_store_seconds(sent + limit_seconds) if self._store_clock is not None else None
        return {"$literal": True} if latest is None else {"$lte": [STORE_TIME, round(latest * 1000)]}


def holder_of(document: Mapping[str, Any]) -> Holder | None:
    """Return the holder in the lease of *document*; None without one."""
    lease = document.get("lease") or {}
    if lease.get("worker_id") is None:
        return None
    return Holder(
        lease["worker_id"],
        lease["instance_id"],
        lease["host"],
        lease.get("started_at_milliseconds") or 0,
        lease.get("boot_id") or "",
        bytes.fromhex(lease.get("public_key") or ""),
    )


def _held(document_id: int | str, holder: Holder, epoch: int) -> _Document:
    return {
        "_id": document_id,
        "lease.worker_id": holder.worker_id,
        "lease.instance_id": holder.instance_id,
        "lease.epoch": epoch,
    }


def _exactly(lease: LeaseView) -> list[_Document]:
    """Return the conditions that the lease is still that one, of the same process on the same engine and boot."""
    holder = lease.holder
    expected = {
        "worker_id": holder.worker_id,
        "instance_id": holder.instance_id,
        "host": holder.host,
        "boot_id": holder.boot_id,
    }
    same = [{"$eq": [f"$lease.{field}", _literal(value)]} for field, value in expected.items()]
    return [*same, {"$eq": ["$lease.epoch", lease.epoch]}]


def _literal(text: str) -> _Document:
    # An id from outside may begin with "$", which an expression would read as a field.
    return {"$literal": text}
