"""Remove objects, one at a time and at a bounded rate, or only count them."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field

from libs.collector.metrics import COLLECTED, COLLECTED_BYTES
from libs.core.observability.log import get_logger
from libs.core.storage.object_store import ObjectInfo, ObjectStore

log = get_logger(__name__)

_MOST_LOGGED = 100


async def pages(found: AsyncIterable[ObjectInfo], size: int) -> AsyncIterator[list[ObjectInfo]]:
    """Yield the objects in lists of *size*; the last one may be shorter."""
    page: list[ObjectInfo] = []
    async for info in found:
        page.append(info)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page


@dataclass(frozen=True)
class Found:
    """The removed data of one kind in one round, or the data that a dry run would have removed."""

    kind: str
    count: int
    size: int


@dataclass
class Sweep:
    """One round of one *kind*.

    Attributes:
        dry_run: remove nothing; count the data and log the first objects.
        per_second: maximum number of objects removed per second.
    """

    kind: str
    dry_run: bool = False
    per_second: float = 200.0
    count: int = field(default=0, init=False)
    size: int = field(default=0, init=False)

    async def remove(self, store: ObjectStore, bucket: str, info: ObjectInfo, *beside: str) -> None:
        """Remove the object, after those *beside* it, which are useless without it. May be repeated.

        Raises:
            StorageUnavailable, StorageRejected: it may still exist.
        """
        if not self.dry_run:
            for key in (*beside, info.key):
                await store.remove(bucket, key)
                await asyncio.sleep(1 / self.per_second)
        elif self.count < _MOST_LOGGED:
            log.info("would be removed", kind=self.kind, bucket=bucket, key=info.key, bytes=info.size)
        self.note(1, info.size)

    def note(self, count: int, size: int = 0) -> None:
        """Count removed data, *size* in bytes."""
        self.count += count
        self.size += size
        labels = (self.kind, str(self.dry_run).lower())
        COLLECTED.labels(*labels).inc(count)
        COLLECTED_BYTES.labels(*labels).inc(size)

    @property
    def found(self) -> Found:
        """The data removed so far."""
        return Found(self.kind, self.count, self.size)
