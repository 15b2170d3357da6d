"""Decide which host may append to the logs of a segment's bots while the segment moves.

A day's object has one writer at a time. The owner of the segment is that writer, by its lease. A worker that releases
a segment releases the lease before it uploads the rest of the output, so that the bots start elsewhere at once; for
that it leaves a *promise* in the bucket while it still owns the segment. A new owner lists the promises of other hosts
before its first addition, and waits until they are gone: each worker removes its own when its rest is uploaded.

Nothing depends on two hosts' clocks: the promise is in the bucket before the lease is released, so that the next owner
sees it; it is valid for ``REST_SECONDS`` from a moment at which the lease was proven; and the next owner waits for
``WAIT_SECONDS``, which is longer, from the moment at which it sees it. If a promise could not be made in time, the
rest is stored beside the day's object.
"""

import asyncio
import hashlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.storage.errors import BucketMissing
from libs.core.storage.object_store import ObjectStore

log = get_logger(__name__)

REST_SECONDS = 10.0
"""How long after its release a worker may add the rest of a segment's output to the days' objects."""

WAIT_SECONDS = 25.0
"""Maximum wait of a new owner for a promise. An addition that begins within REST_SECONDS has ended by then."""

_PROMISES = ".the0/promises/"


@dataclass(eq=False)
class Turn:
    """One ownership of a segment.

    Attributes:
        others: promises of earlier owners on other hosts by key, with the time at which each was first seen; None
            until they were listed under the lease, since later owners promise too.
        promising: the task that writes the promise *promise*; *promised* is whether it is in the bucket.
        until: until when the rest may be added after the release; None before the release.
    """

    segment: int
    promise: str
    others: dict[str, float] | None = None
    promising: "asyncio.Task[None] | None" = None
    promised: bool = False
    until: float | None = None

    @property
    def clear(self) -> bool:
        """Whether no other host has output to add."""
        return self.others is not None and not self.others


class HandOver:
    """The turns of one worker process.

    Args:
        place: identifies the segments of one service and scope in a shared bucket.
        writer: identifies this host.
        owns: whether this worker owns a segment now, by a lease that it can prove.
        rest_seconds: how long after its release the rest of a segment's output may be added.
    """

    def __init__(
        self,
        store: ObjectStore,
        bucket: str,
        *,
        place: str,
        writer: str,
        owns: Callable[[int], bool],
        clock: Callable[[], float] = time.monotonic,
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        self.writer = hashlib.sha256(writer.encode()).hexdigest()[:8]
        """Return a name of this host for keys."""
        self.owns = owns
        self.rest_seconds = rest_seconds
        self._store = store
        self._bucket = bucket
        self._folder = f"{_PROMISES}{hashlib.sha256(place.encode()).hexdigest()[:20]}/"
        self._clock = clock
        # An addition that begins in time has ended by then.
        self._wait_seconds = rest_seconds + (WAIT_SECONDS - REST_SECONDS)
        self._turns: dict[int, Turn] = {}
        self._epochs: dict[int, int] = {}

    def begin(self, segment: int, epoch: int) -> None:
        """Note that the segment was acquired under *epoch*. A known or older epoch changes nothing."""
        if epoch > self._epochs.get(segment, -1):
            self._epochs[segment] = epoch
            self._turns.pop(segment, None)

    def leave(self, segment: int) -> None:
        """Write the promise in the background, before the segment is released. May be repeated."""
        if not self.owns(segment):
            return
        turn = self._turn(segment)
        if turn.promising is None:
            turn.promising = asyncio.create_task(self._promise(turn), name=f"promise the logs of segment {segment}")

    async def announced(self, segment: int, limit_seconds: float) -> None:
        """Return when the promise of :meth:`leave` is written or has failed, or at the limit."""
        turn = self._turns.get(segment)
        if turn is not None and turn.promising is not None:
            await asyncio.wait([turn.promising], timeout=limit_seconds)

    def release(self, segment: int) -> Turn | None:
        """Note that the lease is about to be released; return the ending turn, to be passed to :meth:`done`.

        If the promise is written, the rest of the output may be added for REST_SECONDS from now on; otherwise only
        while the lease is proven.
        """
        turn = self._turns.get(segment)
        if turn is not None and turn.promised and self.owns(segment):
            turn.until = self._clock() + self.rest_seconds
        return turn

    async def done(self, turn: Turn) -> None:
        """End *turn*: remove the promise, so that the next owner may add. May be repeated."""
        if self._turns.get(turn.segment) is turn:
            del self._turns[turn.segment]
        promising, turn.promising = turn.promising, None
        if promising is not None:
            await asyncio.wait([promising])
            # Also after a failure: a request that timed out may have been carried out.
            await self._remove(turn.promise)

    def is_open(self, segment: int) -> bool:
        """Whether this worker owns the segment, or has promised the rest and is in time. Fast."""
        turn = self._turns.get(segment)
        if turn is not None and turn.until is not None:
            return self._clock() < turn.until
        return self.owns(segment)

    def may_add(self, segment: int) -> bool:
        """Whether this worker may add to the days' objects of the segment's bots now. Fast."""
        turn = self._turns.get(segment)
        return turn is not None and turn.clear and self.is_open(segment)

    def waits(self, segment: int) -> bool:
        """Whether this worker must wait for the rest of another host. Fast."""
        turn = self._turns.get(segment)
        return turn is not None and bool(turn.others) and self.is_open(segment)

    async def prepare(self, segment: int) -> None:
        """Determine whether it is this worker's turn; :meth:`may_add` returns the result.

        Raises:
            RuntimeFault: the storage did not answer, so it is not.
        """
        if self.is_open(segment):
            await self._check(self._turn(segment))
            return
        turn = self._turns.get(segment)
        if turn is not None and turn.until is None:
            # The lease was lost; another host may have had the segment when it is acquired again.
            await self.done(turn)

    # --- inside

    def _turn(self, segment: int) -> Turn:
        turn = self._turns.get(segment)
        if turn is None or (turn.until is not None and self._clock() >= turn.until):
            key = f"{self._folder}{segment}/{self.writer}-{uuid.uuid4().hex}"
            turn = self._turns[segment] = Turn(segment, key)
        return turn

    async def _check(self, turn: Turn) -> None:
        if turn.clear:
            return
        found = await self._promises(turn.segment)
        now = self._clock()
        if turn.others is None:
            if self.owns(turn.segment):
                turn.others = dict.fromkeys(found, now)
            return
        turn.others = {key: seen_at for key, seen_at in turn.others.items() if key in found}
        for key, seen_at in list(turn.others.items()):
            if now - seen_at >= self._wait_seconds:
                log.warning("another host did not upload the rest of its output in time", promise=key)
                await self._remove(key)
                turn.others.pop(key, None)

    async def _promise(self, turn: Turn) -> None:
        try:
            await self._check(turn)
            await self._store.put(self._bucket, turn.promise, b"")
        except RuntimeFault as error:
            log.warning(
                "the rest of a segment's output is stored in separate objects", segment=turn.segment, reason=str(error)
            )
        else:
            turn.promised = turn.others is not None

    async def _promises(self, segment: int) -> list[str]:
        """Return the keys of other hosts' promises. Those of this host share its folders and their locks."""
        prefix = f"{self._folder}{segment}/"
        try:
            keys = [info.key async for info in self._store.list(self._bucket, prefix)]
        except BucketMissing:
            return []
        return [key for key in keys if not key.removeprefix(prefix).startswith(f"{self.writer}-")]

    async def _remove(self, key: str) -> None:
        try:
            await self._store.remove(self._bucket, key)
        except RuntimeFault as error:
            # It makes the next owner on another host wait once.
            log.warning("a reservation was not removed", key=key, reason=str(error))
