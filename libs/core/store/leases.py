"""Leases of segments and of the leadership, by the database server's clock.

Each operation is one conditional update of one document that compares with ``$$NOW``, so no client's clock is
involved and two clients can never both succeed. The write must reach a majority: a lease that a failover could roll
back is worthless. The counter ``epoch`` increases with every acquisition and never decreases, also across releases.

MongoDB's clock may jump, by hand or by a failover to a server whose clock is ahead. A holder relies on its lease by its
own clock, so another holder's expired lease is taken over only when MongoDB's clock was steady for a lease's life.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import UTC
from typing import Any

import pymongo
from pymongo import ReadPreference
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.write_concern import WriteConcern

from libs.core.leases.boot_clock import boot_seconds
from libs.core.leases.lease import (
    Holder,
    Leadership,
    Lease,
    LeaseHeld,
    LeaseLost,
    LeaseView,
    SegmentMissing,
    SegmentView,
    Taken,
    TakeoverTooEarly,
)
from libs.core.leases.store_clock import StoreClock
from libs.core.run_record import RunRecord
from libs.core.store.client import StoreUnavailable, translated
from libs.core.store.lease_updates import LIVE, REMAINING, STORE_TIME, Attempt, LeaseUpdates, holder_of
from libs.core.store.stop_deadlines import StopDeadlines

_Document = dict[str, Any]
_SURVEY_BATCH = 1000
"""Documents decoded in one step; the event loop runs in between."""
_CLOCK_ATTEMPTS = 3
_CLOCK_RETRY_SECONDS = 0.5


class LeaseStore:
    """The leases of the segments, in their documents in ``partitions``. Needs no index beyond the primary one.

    Args:
        life_seconds: duration of a lease from each renewal on.
        timeout_seconds: the limit of each request, unless a call names a shorter one.
        clock: the boot-time clock.
        host_clock: the host's Unix time.
    """

    def __init__(
        self,
        database: AsyncDatabase[_Document],
        life_seconds: float,
        *,
        timeout_seconds: float = 2.0,
        clock: Callable[[], float] = boot_seconds,
        host_clock: Callable[[], float] = time.time,
    ) -> None:
        self.life_seconds = life_seconds
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._host_clock = host_clock
        self._store_clock = StoreClock(life_seconds)
        self._database = database
        self._partitions = _collection(database, "partitions")
        self._leases = LeaseUpdates(self._partitions, life_seconds, clock, self._store_clock)

    async def acquire(
        self,
        segment_id: int,
        holder: Holder,
        *,
        former: LeaseView | None = None,
        timeout_seconds: float | None = None,
    ) -> Lease:
        """Acquire the lease of *segment_id* with a new epoch, if it is free or was held by this process before.

        May be repeated: an own lease is acquired again.

        Args:
            former: the live lease of a dead or agreeing neighbour, which is taken over if it is exactly as given.

        Raises:
            LeaseHeld: by another process.
            TakeoverTooEarly: the lease of another process has expired, but MongoDB's clock was not steady long enough.
            SegmentMissing: there is no such segment.
            StoreUnavailable: outcome unknown; the lease may be held by *holder* now.
        """
        limit_seconds = timeout_seconds or self._timeout_seconds
        async with _limited(limit_seconds):
            if former is None:
                attempt = await self._acquire(segment_id, holder, limit_seconds)
            else:
                attempt = await self._take_over(segment_id, holder, limit_seconds, former)
        if attempt.grant is None:
            raise _refused(_name(segment_id), attempt)
        return Lease(segment_id, holder, attempt.grant.epoch, attempt.grant.proven_until)

    async def _take_over(self, segment_id: int, holder: Holder, limit_seconds: float, former: LeaseView) -> Attempt:
        attempt = await self._leases.acquire(
            segment_id, holder, limit_seconds, same_host_takes_over=True, takes_lapsed=False, former=former
        )
        if attempt is None:
            raise SegmentMissing(segment_id)
        return attempt

    async def _acquire(self, segment_id: int, holder: Holder, limit_seconds: float) -> Attempt:
        for _ in range(_CLOCK_ATTEMPTS):
            attempt = await self._attempt(segment_id, holder, limit_seconds)
            if attempt.grant is not None or attempt.remaining_seconds > 0:
                return attempt
            # It has expired. This answer itself has to show that MongoDB's clock did not jump.
            if attempt.is_sharp:
                break
        else:
            raise TakeoverTooEarly(_name(segment_id), _CLOCK_RETRY_SECONDS)
        early_seconds = self._store_clock.steady_in_seconds(self._clock())
        if early_seconds > 0:
            raise TakeoverTooEarly(_name(segment_id), early_seconds)
        return await self._attempt(segment_id, holder, limit_seconds, lapsed_epoch=attempt.epoch)

    async def _attempt(
        self, segment_id: int, holder: Holder, limit_seconds: float, lapsed_epoch: int | None = None
    ) -> Attempt:
        attempt = await self._leases.acquire(
            segment_id,
            holder,
            limit_seconds,
            same_host_takes_over=True,
            takes_lapsed=lapsed_epoch is not None,
            of_epoch=lapsed_epoch,
        )
        if attempt is None:
            raise SegmentMissing(segment_id)
        return attempt

    async def renew(self, lease: Lease, *, timeout_seconds: float | None = None) -> Lease:
        """Extend *lease* and return it with its new proof. May be repeated.

        Raises:
            LeaseLost: stop its containers now, unless they were taken over with it.
            StoreUnavailable: outcome unknown; keep the old proof.
        """
        limit_seconds = timeout_seconds or self._timeout_seconds
        async with _limited(limit_seconds):
            proven_until = await self._leases.renew(lease.segment_id, lease.holder, lease.epoch, limit_seconds)
            if proven_until is None:
                if await self._leases.still_held(lease.segment_id, lease.holder, lease.epoch):
                    raise StoreUnavailable("the renewal of a lease arrived too late")
                raise LeaseLost(_name(lease.segment_id), lease.epoch, await self._taken(lease))
        return replace(lease, proven_until=proven_until)

    async def release(self, lease: Lease, *, timeout_seconds: float | None = None) -> None:
        """Release *lease*, so that it can be acquired at once. May be repeated; a lost lease is not changed.

        Raises:
            StoreUnavailable: outcome unknown; it expires in any case.
        """
        async with _limited(timeout_seconds or self._timeout_seconds):
            await self._leases.release(lease.segment_id, lease.holder, lease.epoch)

    async def taken(self, lease: Lease, *, timeout_seconds: float | None = None) -> Taken:
        """Return whether another process on the same engine has taken over *lease* together with the containers.

        Raises:
            StoreUnavailable: unknown.
        """
        async with _limited(timeout_seconds or self._timeout_seconds):
            return await self._taken(lease)

    async def _taken(self, lease: Lease) -> Taken:
        holder = lease.holder
        successor = await self._leases.successor(lease.segment_id, holder, lease.epoch)
        if successor is None:
            return Taken.NO
        if successor.worker_id == holder.worker_id:
            return Taken.BY_SAME_WORKER if successor.host == holder.host else Taken.NO
        return Taken.BY_NEIGHBOUR if successor.is_neighbour_of(holder) else Taken.NO

    async def held_by(self, holder: Holder, *, timeout_seconds: float | None = None) -> list[LeaseView]:
        """Return the live leases of this process. Errors as survey()."""
        async with _limited(timeout_seconds or self._timeout_seconds):
            held = {"lease.instance_id": holder.instance_id, "lease.worker_id": holder.worker_id, "$expr": LIVE}
            fields = {"lease": 1, "remaining_milliseconds": REMAINING}
            found = [_segment(document).lease async for document in self._partitions.find(held, fields)]
        return [lease for lease in found if lease is not None and lease.holder == holder]

    async def survey(self, *, timeout_seconds: float | None = None) -> list[SegmentView]:
        """Return all segments with entities or a live lease, by number, as of one query.

        Raises:
            StoreUnavailable: unknown; it does not mean that there are none.
        """
        segments = []
        async with _limited(timeout_seconds or max(self._timeout_seconds, 10.0)):
            wanted = {"$or": [{"bot_count": {"$gt": 0}}, {"$expr": LIVE}]}
            fields = {"bot_count": 1, "lease": 1, "placement": 1, "remaining_milliseconds": REMAINING}
            async for document in self._partitions.find(wanted, fields, batch_size=_SURVEY_BATCH):
                segments.append(_segment(document))
        segments.sort(key=lambda segment: segment.segment_id)
        return segments

    async def live(self, *, timeout_seconds: float | None = None) -> list[LeaseView]:
        """Return the live leases, by segment. Errors as survey()."""
        survey = await self.survey(timeout_seconds=timeout_seconds)
        return [segment.lease for segment in survey if segment.lease is not None]

    def now(self) -> float:
        """Return MongoDB's time (Unix seconds) as the last answers show it; the host's time before the first answer.

        All workers of a deployment share this time; it does not depend on their hosts' clocks.
        """
        known = self._store_clock.store_seconds(self._clock())
        return known if known is not None else self._host_clock()

    def may_still_stop(self, deadlines: StopDeadlines, run: RunRecord) -> bool:
        """Whether the container of *run* may still stop, although its segment was given away."""
        now = self._clock()
        deadlines.forget_old(now)
        steady_seconds = self._store_clock.steady_seconds(now)
        return deadlines.may_live(run, now=now, store_now=self.now(), steady_seconds=steady_seconds)

    async def cede(self, lease: Lease, hold_seconds: float, *, timeout_seconds: float | None = None) -> None:
        """Let any worker acquire *lease* at once, although containers still stop. May be repeated.

        A worker of an older version, which does not know their last deadlines, sees it as held for *hold_seconds*.

        Raises:
            LeaseLost: it is not held any more.
            StoreUnavailable: outcome unknown; it expires in any case.
        """
        async with _limited(timeout_seconds or self._timeout_seconds):
            if not await self._leases.cede(lease.segment_id, lease.holder, lease.epoch, hold_seconds):
                raise LeaseLost(_name(lease.segment_id), lease.epoch)

    async def reachable(self, *, timeout_seconds: float | None = None) -> None:
        """Return if segments can be read now; the answer shows MongoDB's time.

        Raises:
            StoreUnavailable: they cannot.
        """
        async with _limited(timeout_seconds or self._timeout_seconds):
            sent = self._clock()
            document = await self._partitions.find_one({}, {"store_time": STORE_TIME})
            if document is None:
                sent = self._clock()
                local_time = (await self._database.command("hello"))["localTime"]
                document = {"store_time": round(local_time.replace(tzinfo=UTC).timestamp() * 1000)}
        self._leases.note(sent, document["store_time"])


class LeadershipStore:
    """The lease of the leading master, a document of its own in ``leadership``. Arguments as for LeaseStore."""

    def __init__(
        self,
        database: AsyncDatabase[_Document],
        life_seconds: float,
        *,
        timeout_seconds: float = 2.0,
        clock: Callable[[], float] = boot_seconds,
        name: str = "master",
    ) -> None:
        self.life_seconds = life_seconds
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._collection = _collection(database, "leadership")
        self._leases = LeaseUpdates(self._collection, life_seconds, clock)

    async def acquire(self, holder: Holder, *, timeout_seconds: float | None = None) -> Leadership:
        """Become the leader if there is none. Only the same process may acquire its own leadership again.

        Raises:
            LeaseHeld: by another master.
            StoreUnavailable: outcome unknown; this process may be the leader now.
        """
        limit_seconds = timeout_seconds or self._timeout_seconds
        async with _limited(limit_seconds):
            attempt = await self._attempt(holder, limit_seconds)
            if attempt is None:
                # The first master of this database. Of several concurrent ones, the first inserts the document.
                await self._collection.update_one({"_id": self._name}, {"$setOnInsert": {"lease": None}}, upsert=True)
                attempt = await self._attempt(holder, limit_seconds)
        if attempt is None:
            raise StoreUnavailable("the leadership document was removed while it was acquired")
        if attempt.grant is None:
            raise _refused("leadership", attempt)
        return Leadership(holder, attempt.grant.epoch, attempt.grant.proven_until)

    async def renew(self, leadership: Leadership, *, timeout_seconds: float | None = None) -> Leadership:
        """Extend it and return it with its new proof. May be repeated.

        Raises:
            LeaseLost: stop leading now.
            StoreUnavailable: outcome unknown; keep the old proof.
        """
        limit_seconds = timeout_seconds or self._timeout_seconds
        async with _limited(limit_seconds):
            proven_until = await self._leases.renew(self._name, leadership.holder, leadership.epoch, limit_seconds)
        if proven_until is None:
            raise LeaseLost("leadership", leadership.epoch)
        return replace(leadership, proven_until=proven_until)

    async def release(self, leadership: Leadership, *, timeout_seconds: float | None = None) -> None:
        """Release it, so that another master may lead at once. May be repeated. Errors as LeaseStore.release()."""
        async with _limited(timeout_seconds or self._timeout_seconds):
            await self._leases.release(self._name, leadership.holder, leadership.epoch)

    async def leader(self, *, timeout_seconds: float | None = None) -> Holder | None:
        """Return the current leadership; None without a leader. Raises StoreUnavailable."""
        async with _limited(timeout_seconds or self._timeout_seconds):
            document = await self._collection.find_one({"_id": self._name, "$expr": LIVE}, {"lease": 1})
        return holder_of(document) if document is not None else None

    async def _attempt(self, holder: Holder, limit_seconds: float) -> Attempt | None:
        return await self._leases.acquire(
            self._name, holder, limit_seconds, same_host_takes_over=False, takes_lapsed=True
        )


def _collection(database: AsyncDatabase[_Document], name: str) -> Any:
    # A secondary's leases are old, and its clock is another one.
    return database.get_collection(name, write_concern=WriteConcern("majority"), read_preference=ReadPreference.PRIMARY)


def _refused(name: str, attempt: Attempt) -> LeaseHeld | StoreUnavailable:
    if attempt.holder is None:
        return StoreUnavailable(f"{name} changed while it was acquired")
    return LeaseHeld(name, attempt.holder, max(0.0, attempt.remaining_seconds))


def _name(segment_id: int) -> str:
    return f"segment {segment_id}"


def _segment(document: Mapping[str, Any]) -> SegmentView:
    segment_id = int(document["_id"])
    remaining = document.get("remaining_milliseconds")
    lease = None
    holder = holder_of(document)
    if (document.get("lease") or {}).get("ceded"):
        holder = None
    if holder is not None and remaining is not None and remaining > 0:
        lease = LeaseView(segment_id, holder, document["lease"]["epoch"], remaining / 1000)
    placement = document.get("placement")
    return SegmentView(
        segment_id, int(document.get("bot_count", 0)), lease, placement if isinstance(placement, str) else ""
    )


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
