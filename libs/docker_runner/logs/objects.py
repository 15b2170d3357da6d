"""Append output to a day's object, which can be read as one object at any time.

S3 has no append. It composes objects on the server, where every part except the last must have 5 MiB:

* An object of 5 MiB or more is composed of itself and the new part: only the new part is sent.
* A smaller one has a *padded* twin: 5 MiB of filler, stored once per bucket, followed by its content. The new part
  is composed to the twin, and the object is the twin without the filler. Again only the new part is sent. The twin is
  reused while it is known to belong to this object; otherwise it is composed again.
* While the object is below 64 KiB, or far smaller than the new part, it is read and sent again with the new
  part: the dozen requests of the padded way cost as much.

So n bytes of output in k additions cost at most n * 17/16 + k * 64 KiB + one filler per bucket, of any size.
The server, however, copies the object each time; frequent callers should leave time for that.
"""

import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.storage.errors import BucketMissing, ObjectChanged, ObjectMissing
from libs.core.storage.object_store import MIN_COMPOSED_PART_BYTES, ObjectInfo, ObjectStore, Piece

log = get_logger(__name__)

CONTENT_TYPE = "text/plain; charset=utf-8"
_SCRATCH = ".the0/append/"
_FILLER_KEY = ".the0/filler-5MiB"
_FILLER_BYTES = MIN_COMPOSED_PART_BYTES
_RESENT_WHOLE_BYTES = 64 * 1024
_RESENT_SHARE = 16
# The amount that a server copies in one request: well within the time limit of an answer.
_COPIED_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class _Twin:
    """A padded twin as created, and the object to which it belongs."""

    etag: str
    object_etag: str


class LogObjects:
    """The day objects in *bucket*.

    One writer at a time may append to a key, which the segment's lease ensures. An addition is atomic for readers,
    but not conditional on the server: a concurrent second writer would overwrite the first one's.
    """

    def __init__(self, store: ObjectStore, bucket: str) -> None:
        self._store = store
        self._bucket = bucket
        self._twins: dict[str, _Twin] = {}
        self._filler_is_there = False

    async def stat(self, key: str) -> ObjectInfo | None:
        """Return the object's state; None when it does not exist."""
        try:
            return await self._store.stat(self._bucket, key)
        except BucketMissing:
            await self._store.ensure_bucket(self._bucket)
            return None
        except ObjectMissing:
            return None

    async def contains(self, key: str, offset: int, content: bytes) -> bool:
        """Whether the object has exactly these bytes at *offset*."""
        try:
            return await self._store.get(self._bucket, key, offset=offset, length=len(content)) == content
        except ObjectMissing:
            return False

    async def add(self, key: str, before: ObjectInfo | None, content: bytes) -> None:
        """Append *content* to the object, which is *before* as returned by :meth:`stat`.

        Raises:
            ObjectChanged: it has changed; nothing was added.
            StorageUnavailable: outcome unknown; :meth:`stat` and :meth:`contains` show it.
        """
        if before is None or before.size == 0:
            await self._put(key, content)
        elif before.size <= max(_RESENT_WHOLE_BYTES, len(content) // _RESENT_SHARE):
            # A failed or partial read raises: a day's output is never replaced by less.
            present = await self._store.get(self._bucket, key, etag=before.etag)
            await self._put(key, present + content)
        elif before.size >= MIN_COMPOSED_PART_BYTES:
            async with self._part(key, content) as part:
                await self._compose(key, [*whole_in_pieces(key, before), Piece(part)])
            await self.forget(key)
        else:
            await self._add_padded(key, before, content)

    async def forget(self, key: str) -> None:
        """Remove the twin of this key, to which no more output is expected soon."""
        if self._twins.pop(key, None) is not None:
            await self._store.remove(self._bucket, self._twin_key(key))

    async def sweep(self, older_than: timedelta = timedelta(days=2)) -> int:
        """Remove parts and twins that killed processes left in the bucket; return how many objects."""
        removed = 0
        async for info in self._store.list(self._bucket, _SCRATCH):
            if info.modified_at < datetime.now(UTC) - older_than:
                await self._store.remove(self._bucket, info.key)
                removed += 1
        return removed

    # --- inside

    async def _add_padded(self, key: str, before: ObjectInfo, content: bytes) -> None:
        twin_key = self._twin_key(key)
        twin = self._twins.pop(key, None)
        try:
            async with self._part(key, content) as part:
                if twin is None or twin.object_etag != before.etag:
                    await self._ensure_filler()
                    twin = _Twin(await self._compose(twin_key, [Piece(_FILLER_KEY), Piece(key, etag=before.etag)]), "")
                padded = await self._compose(twin_key, [Piece(twin_key, etag=twin.etag), Piece(part)])
                made = await self._compose(key, [Piece(twin_key, offset=_FILLER_BYTES, etag=padded)])
        except ObjectMissing as error:
            # The bucket was cleaned: start again with a new filler and twin.
            self._filler_is_there = False
            raise ObjectChanged(self._bucket, key) from error
        self._twins[key] = _Twin(padded, made)

    async def _ensure_filler(self) -> None:
        if self._filler_is_there:
            return
        try:
            there = (await self._store.stat(self._bucket, _FILLER_KEY)).size == _FILLER_BYTES
        except ObjectMissing:
            there = False
        if not there:
            await self._store.put(self._bucket, _FILLER_KEY, bytes(_FILLER_BYTES))
        self._filler_is_there = True

    @asynccontextmanager
    async def _part(self, key: str, content: bytes) -> AsyncIterator[str]:
        """Store *content* as a separate object during the block."""
        part = f"{self._scratch_folder(key)}part-{uuid.uuid4().hex}"
        try:
            await self._store.put(self._bucket, part, content)
            yield part
        finally:
            try:
                await self._store.remove(self._bucket, part)
            except RuntimeFault as error:
                # It costs space until the next sweep, but does not affect the addition.
                log.warning("a part of a log was not removed", key=part, reason=str(error))

    async def _put(self, key: str, content: bytes) -> None:
        await self._store.put(self._bucket, key, content, CONTENT_TYPE)

    async def _compose(self, key: str, pieces: list[Piece]) -> str:
        return await self._store.compose(self._bucket, key, pieces, CONTENT_TYPE)

    def _twin_key(self, key: str) -> str:
        return f"{self._scratch_folder(key)}twin"

    @staticmethod
    def _scratch_folder(key: str) -> str:
        return f"{_SCRATCH}{hashlib.sha256(key.encode()).hexdigest()[:32]}/"


def whole_in_pieces(key: str, info: ObjectInfo) -> list[Piece]:
    """Return the object in pieces small enough for a server to copy at once, and large enough to be composed."""
    count = max(1, info.size // _COPIED_BYTES)
    length = info.size // count
    pieces = [Piece(key, number * length, length, info.etag) for number in range(count - 1)]
    return [*pieces, Piece(key, (count - 1) * length, None, info.etag)]
