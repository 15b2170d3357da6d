"""Removing objects, one at a time and at a bounded rate, or only counting them."""

import asyncio
from dataclasses import dataclass, field

from libs.collector.metrics import COLLECTED, COLLECTED_BYTES
from libs.core.observability.log import get_logger
from libs.core.storage.object_store import ObjectInfo, ObjectStore

log = get_logger(__name__)

_MOST_LOGGED = 100


@dataclass(frozen=True)
class Found:
    """What one round of one kind removed, or would have removed."""

    kind: str
    count: int
    size: int


@dataclass
class Sweep:
    """One round over one *kind* of things.

    Attributes:
        dry_run: nothing is removed; what would be is logged, the first of it one by one.
        per_second: how many objects are removed in a second at most.
    """

    kind: str
    dry_run: bool = False
    per_second: float = 200.0
    count: int = field(default=0, init=False)
    size: int = field(default=0, init=False)

    async def remove(self, store: ObjectStore, bucket: str, info: ObjectInfo, *beside: str) -> None:
        """Remove the object, after those *beside* it, which are worth nothing without it. May be repeated.

        Raises:
            StorageUnavailable, StorageRejected: it may be there still.
        """
        if not self.dry_run:
            for key in (*beside, info.key):
                await store.remove(bucket, key)
                await asyncio.sleep(1 / self.per_second)
        elif self.count < _MOST_LOGGED:
            log.info("would be removed", kind=self.kind, bucket=bucket, key=info.key, bytes=info.size)
        self.note(1, info.size)

    def note(self, count: int, size: int = 0) -> None:
        """Count what was removed, *size* in bytes."""
        self.count += count
        self.size += size
        labels = (self.kind, str(self.dry_run).lower())
        COLLECTED.labels(*labels).inc(count)
        COLLECTED_BYTES.labels(*labels).inc(size)

    @property
    def found(self) -> Found:
        """What was removed so far."""
        return Found(self.kind, self.count, self.size)
