"""Quotas of owners: who holds a place, in one document for each owner.

A claim is one conditional update of that document, with the server's clock: claims of many workers at once cannot
exceed a quota together. A claim stays until it is dropped; the entity's next start renews it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pymongo import ReturnDocument

from libs.core.room import MIB, Need
from libs.core.store.client import Database, StoreConflict, translated

COLLECTION = "quotas"
CPUS_ROUNDING = 1e-9
"""A sum of binary fractions must not refuse the last entity that fits."""
_MINUTE_MILLISECONDS = 60_000
_ATTEMPTS = 3


class QuotaKind(StrEnum):
    """What a quota limits: running entities, the sums of their limits, and starts of containers."""

    COUNT = "count"
    MEMORY = "memory"
    CPUS = "cpus"
    STARTS = "starts"


@dataclass(frozen=True)
class Quota:
    """The limits of each owner in one service; 0 for no limit."""

    count: int = 0
    memory_bytes: int = 0
    cpus: float = 0.0
    starts_per_minute: int = 0

    def __bool__(self) -> bool:
        return bool(self.count or self.memory_bytes or self.cpus or self.starts_per_minute)


@dataclass(frozen=True)
class Holder:
    """One entity that holds a place for what it needs, by the run that claimed it."""

    entity_id: str
    run_id: str
    need: Need = field(default_factory=Need, compare=False)


@dataclass(frozen=True)
class Refusal:
    """Why a claim was refused. *used* is what the owner's other entities hold, in MiB for memory."""

    kind: QuotaKind
    owner: str
    used: float
    limit: float


class QuotaStore:
    """The collection ``quotas`` of a service's database. Raises StoreUnavailable; each call may be repeated."""

    def __init__(self, database: Database, quota: Quota) -> None:
        self._quotas = database[COLLECTION]
        self._quota = quota

    async def claim(self, owner: str, holder: Holder, *, runs_already: bool = False) -> Refusal | None:
        """Hold a place for one start of an entity of *owner*; return the reason if its quota does not permit it.

        Args:
            runs_already: count it in any case, without a start, and unless it is counted already.
        """
        update = _claim(self._quota, holder, runs_already=runs_already)
        for attempt in range(_ATTEMPTS):
            try:
                with translated():
                    document = await self._quotas.find_one_and_update(
                        {"_id": owner}, update, upsert=True, return_document=ReturnDocument.AFTER
                    )
                break
            except StoreConflict:
                # Two first claims of an owner.
                if attempt == _ATTEMPTS - 1:
                    raise
        refused = (document or {}).get("refused")
        if not isinstance(refused, Mapping) or runs_already:
            return None
        return Refusal(QuotaKind(refused["kind"]), owner, float(refused["used"]), float(refused["limit"]))

    async def holders(self, owner: str) -> list[Holder]:
        """Return the entities that hold a place."""
        with translated():
            document = await self._quotas.find_one({"_id": owner}) or {}
        return [
            Holder(str(found["id"]), str(found["run"]), Need.from_document(found) or Need())
            for found in document.get("holders", ())
        ]

    async def drop(self, owner: str, holders: Collection[Holder]) -> None:
        """Give these places up, unless a later run of the entity has claimed them again."""
        if not holders:
            return
        gone = [{"id": holder.entity_id, "run": holder.run_id} for holder in holders]
        with translated():
            await self._quotas.update_one({"_id": owner}, {"$pull": {"holders": {"$or": gone}}})


def _claim(quota: Quota, holder: Holder, *, runs_already: bool) -> list[dict[str, Any]]:
    """Return the update of an owner's document. Texts are literals: one that begins with `$` is no expression."""
    need = holder.need
    entity_id = {"$literal": holder.entity_id}
    held = {"$ifNull": ["$holders", []]}
    others = {"$filter": {"input": held, "cond": {"$ne": ["$$this.id", entity_id]}}}
    begun = {"$dateSubtract": {"startDate": "$$NOW", "unit": "millisecond", "amount": _MINUTE_MILLISECONDS}}
    recent = {"$filter": {"input": {"$ifNull": ["$starts", []]}, "cond": {"$gt": ["$$this", begun]}}}
    mine = {
        "id": entity_id,
        "run": {"$literal": holder.run_id},
        **need.to_document(),
    }
    if runs_already:
        mine_or_known = {
            "$cond": [{"$in": [entity_id, {"$map": {"input": held, "in": "$$this.id"}}]}, held, _with(others, mine)]
        }
        return [{"$set": {"holders": mine_or_known, "refused": None}}]
    memory = {"$sum": "$others.memory_bytes"}
    cpus = {"$sum": "$others.cpus"}
    count = {"$size": "$others"}
    starts = {"$size": "$recent"}
    branches = [
        (quota.count, {"$gte": [count, quota.count]}, QuotaKind.COUNT, count, quota.count),
        (
            quota.memory_bytes,
            {"$gt": [{"$add": [memory, need.memory_bytes]}, quota.memory_bytes]},
            QuotaKind.MEMORY,
            {"$divide": [memory, MIB]},
            quota.memory_bytes / MIB,
        ),
        (
            quota.cpus,
            {"$gt": [{"$add": [cpus, need.cpus]}, quota.cpus + CPUS_ROUNDING]},
            QuotaKind.CPUS,
            cpus,
            quota.cpus,
        ),
        (
            quota.starts_per_minute,
            {"$gte": [starts, quota.starts_per_minute]},
            QuotaKind.STARTS,
            starts,
            quota.starts_per_minute,
        ),
    ]
    switch = [
        {"case": exceeded, "then": {"kind": str(kind), "used": used, "limit": limit}}
        for limited, exceeded, kind, used, limit in branches
        if limited
    ]
    refused: Any = {"$switch": {"branches": switch, "default": None}} if switch else None
    is_granted = {"$eq": ["$refused", None]}
    return [
        {"$set": {"others": others, "recent": recent}},
        {"$set": {"refused": refused}},
        {
            "$set": {
                "holders": {"$cond": [is_granted, _with("$others", mine), held]},
                "starts": {"$cond": [is_granted, {"$concatArrays": ["$recent", ["$$NOW"]]}, "$recent"]},
            }
        },
        {"$unset": ["others", "recent"]},
    ]


def _with(others: Any, mine: Mapping[str, Any]) -> dict[str, Any]:
    return {"$concatArrays": [others, [mine]]}
