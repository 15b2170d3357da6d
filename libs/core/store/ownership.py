"""The owner of each segment, by its lease and the database server's clock, and when a lost owner's lease expired."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pymongo

from libs.core.store.client import Database, Document, translated

_LIMIT_SECONDS = 4.0
_BATCH = 1000
_AGE = {"$subtract": ["$$NOW", "$lease.expires_at"]}


@dataclass(frozen=True, slots=True)
class Ownership:
    """The owner of a segment.

    Attributes:
        worker: the worker of the live or expired lease; empty when the last owner released it, and when there was
            none.
        lost_seconds: time since the lease expired; None while it lives, and without a worker.
    """

    worker: str = ""
    lost_seconds: float | None = None

    @property
    def is_live(self) -> bool:
        """Whether a worker owns the segment now."""
        return bool(self.worker) and self.lost_seconds is None


NOBODY = Ownership()
"""The ownership of a segment that was released by its last owner."""


class OwnershipReader:
    """Reads the leases of a service's segments. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._partitions = database["partitions"]

    async def all(self) -> Mapping[int, Ownership]:
        """Return the owner of every segment that has a document."""
        return await self._read({})

    async def of(self, segment_ids: Iterable[int | None]) -> Mapping[int, Ownership]:
        """Return the owners of these segments, if they have a document."""
        wanted = {segment_id for segment_id in segment_ids if segment_id is not None}
        return await self._read({"_id": {"$in": sorted(wanted)}}) if wanted else {}

    async def _read(self, query: Document) -> Mapping[int, Ownership]:
        fields = {"lease.worker_id": 1, "lease.expires_at": 1, "age_milliseconds": _AGE}
        with translated(), pymongo.timeout(_LIMIT_SECONDS):
            found = self._partitions.find(query, fields, batch_size=_BATCH)
            return {int(document["_id"]): _ownership(document) async for document in found}


def _ownership(document: Mapping[str, Any]) -> Ownership:
    lease = document.get("lease")
    worker = lease.get("worker_id") if isinstance(lease, Mapping) else None
    age = document.get("age_milliseconds")
    if not worker or age is None:
        return NOBODY
    return Ownership(str(worker), age / 1000 if age >= 0 else None)
