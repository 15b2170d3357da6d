"""Segments that were taken over from another worker of the engine, until a master assigns them, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from libs.core.leases.lease import Holder, Lease, LeaseHeld, LeaseView
from libs.core.leases.lease_keeper import LeaseTiming
from libs.core.room import Demand
from libs.core.worker.handler import OwnedSegment
from libs.core.worker.segment_owners import SegmentOwners
from tests.support.virtual_time import in_virtual_time

ME = Holder("b", "b-1", "engine", 2, "boot")
DEAD = Holder("a", "a-1", "engine", 1, "boot")
FORMER = LeaseView(7, DEAD, 3, 4.0)


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Leases:
    """Grants each lease that is free, or taken over from its holder as it is now."""

    holders: dict[int, tuple[Holder, int]] = field(default_factory=dict)
    acquired: list[int] = field(default_factory=list)

    async def acquire(self, segment_id: int, holder: Holder, *, former: LeaseView | None) -> Lease:
        by, epoch = self.holders.get(segment_id, (holder, 0))
        if by != holder and (former is None or (former.holder, former.epoch) != (by, epoch)):
            raise LeaseHeld(f"segment {segment_id}", by, 4.0)
        self.holders[segment_id] = (holder, epoch + 1)
        self.acquired.append(segment_id)
        return Lease(segment_id, holder, epoch + 1, now() + 5.0)

    async def renew(self, lease: Lease, *, timeout_seconds: float) -> Lease:
        return replace(lease, proven_until=now() + 5.0)

    async def release(self, lease: Lease, *, timeout_seconds: float) -> None:
        del self.holders[lease.segment_id]

    async def reachable(self, *, timeout_seconds: float) -> None: ...


@dataclass
class Handler:
    """Notes which segments were stopped."""

    stopped: list[int] = field(default_factory=list)

    async def run(self, owned: OwnedSegment) -> None:
        await asyncio.Event().wait()

    async def renewed(self, lease: Lease) -> None: ...

    async def expire(self, owned: OwnedSegment) -> None: ...

    async def stop_all(self, owned: OwnedSegment, grace_seconds: float) -> None:
        self.stopped.append(owned.segment_id)

    async def promise_ends(self, owned: OwnedSegment, grace_seconds: float) -> float | None: ...

    def leave(self, owned: OwnedSegment) -> None: ...

    def running(self) -> int:
        return 0

    def demand(self, segment_id: int) -> Demand:
        return Demand()


class Rig:
    """The owners of one worker; segment 7 is under the lease of a dead neighbour."""

    def __init__(self) -> None:
        self.leases, self.handler = Leases({7: (DEAD, 3)}), Handler()
        leases: Any = self.leases
        self.owners = SegmentOwners(leases, self.handler, ME, LeaseTiming.of(5.0, 1.0), clock=now)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[SegmentOwners]:
        task = asyncio.create_task(self.owners.run())
        await asyncio.sleep(0)
        try:
            yield self.owners
        finally:
            task.cancel()
            await asyncio.wait([task])

    def held(self) -> dict[int, bool]:
        """The owned segments, and which were taken over and not assigned yet."""
        return {held.segment_id: held.taken_over for held in self.owners.held}


@in_virtual_time
async def test_segment_that_was_taken_over_is_kept_whatever_was_assigned_before() -> None:
    rig = Rig()
    async with rig.running() as owners:
        owners.want([1])
        owners.take_over(FORMER)
        await asyncio.sleep(1.0)
        assert rig.held() == {1: False, 7: True}

        for _ in range(20):
            owners.want([1])
            await asyncio.sleep(1.0)

        assert (rig.held(), rig.handler.stopped) == ({1: False, 7: True}, [])


@in_virtual_time
async def test_segment_that_was_taken_over_follows_the_assignment_once_it_was_assigned() -> None:
    rig = Rig()
    async with rig.running() as owners:
        owners.take_over(FORMER)
        await asyncio.sleep(1.0)

        owners.want([1, 7])
        await asyncio.sleep(1.0)
        confirmed = rig.held()
        owners.want([1])
        await asyncio.sleep(1.0)

    assert confirmed == {1: False, 7: False}
    assert rig.handler.stopped == [7]


@in_virtual_time
async def test_segment_that_no_master_assigns_within_a_minute_is_released() -> None:
    rig = Rig()
    async with rig.running() as owners:
        owners.take_over(FORMER)
        await asyncio.sleep(59.0)
        owners.want([])
        await asyncio.sleep(1.5)
        assert rig.held() == {7: True}

        owners.want([])
        await asyncio.sleep(1.0)

        assert (rig.held(), rig.handler.stopped) == ({}, [7])


@in_virtual_time
async def test_segment_is_kept_without_any_master() -> None:
    rig = Rig()
    async with rig.running() as owners:
        owners.take_over(FORMER)
        await asyncio.sleep(600.0)

        assert (rig.held(), rig.handler.stopped) == ({7: True}, [])


@in_virtual_time
async def test_assigned_segment_that_is_taken_over_is_an_assigned_one() -> None:
    rig = Rig()
    async with rig.running() as owners:
        owners.want([7])
        await asyncio.sleep(1.0)
        assert rig.held() == {}

        owners.take_over(FORMER)
        await asyncio.sleep(1.0)

        assert rig.held() == {7: False}


@in_virtual_time
async def test_takeover_that_is_repeated_acquires_the_lease_once() -> None:
    rig = Rig()
    async with rig.running() as owners:
        for _ in range(5):
            owners.take_over(FORMER)
            await asyncio.sleep(0.25)

        assert rig.leases.acquired == [7]
        assert owners.epoch_of(7) == 4


@in_virtual_time
async def test_lease_that_another_neighbour_has_taken_is_left_to_it() -> None:
    rig = Rig()
    rig.leases.holders[7] = (Holder("c", "c-1", "engine", 3, "boot"), 4)
    async with rig.running() as owners:
        owners.take_over(FORMER)
        await asyncio.sleep(1.0)
        del rig.leases.holders[7]
        await asyncio.sleep(10.0)

        assert (rig.held(), rig.leases.acquired) == ({}, [])


@dataclass
class Takers:
    """Other workers of the engine that take no lease."""

    left: int = 0

    async def leave(self) -> None:
        self.left += 1

    async def exist(self) -> bool:
        return False

    async def hand_over(self, lease: Lease) -> bool:
        return False


@in_virtual_time
async def test_worker_that_ends_is_offered_nothing_and_one_that_has_ended_is_gone_already() -> None:
    running, ended = Rig(), Rig()
    takers = Takers()
    for rig in (running, ended):
        rig.owners.hand_over_to(takers)
    async with ended.running():
        pass

    await ended.owners.drain()
    assert takers.left == 0

    async with running.running() as owners:
        await owners.drain()
    assert takers.left == 1


@in_virtual_time
async def test_worker_that_ends_takes_nothing_over() -> None:
    rig = Rig()
    async with rig.running() as owners:
        await owners.drain()

        owners.take_over(FORMER)
        await asyncio.sleep(1.0)

        assert rig.leases.acquired == []
