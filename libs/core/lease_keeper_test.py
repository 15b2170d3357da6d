"""Keeping a lease: renewals in time, and the moment at which it counts as lost."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from libs.core.errors import Retryable
from libs.core.lease import Holder, Lease, LeaseLost
from libs.core.lease_keeper import LeaseKeeper, LeaseTiming

LIFE_SECONDS = 0.3
TIMING = LeaseTiming.of(LIFE_SECONDS, 0.06)

Renew = Callable[[Lease, float], Awaitable[Lease]]


def fresh() -> Lease:
    return Lease(1, Holder("a", "a-1", "host"), 1, time.monotonic() + LIFE_SECONDS)


def extended(lease: Lease) -> Lease:
    return replace(lease, proven_until=time.monotonic() + LIFE_SECONDS)


async def works(lease: Lease, limit_seconds: float) -> Lease:
    assert 0 < limit_seconds <= TIMING.attempt_seconds
    return extended(lease)


async def fails(lease: Lease, limit_seconds: float) -> Lease:
    raise Retryable("no database")


async def hangs(lease: Lease, limit_seconds: float) -> Lease:
    await asyncio.Event().wait()
    return lease


async def refused(lease: Lease, limit_seconds: float) -> Lease:
    raise LeaseLost("segment 1", lease.epoch, superseded=True)


async def kept_for(renew: Renew, seconds: float) -> LeaseKeeper[Lease]:
    keeper = LeaseKeeper("segment", fresh(), renew, TIMING)
    keeping = asyncio.create_task(keeper.keep())
    done, _ = await asyncio.wait([keeping], timeout=seconds)
    assert not done
    keeping.cancel()
    await asyncio.wait([keeping])
    return keeper


async def test_renewals_keep_it_beyond_its_life() -> None:
    keeper = await kept_for(works, 1.5 * LIFE_SECONDS)

    assert keeper.safe_seconds() > 0


async def test_a_lease_that_cannot_be_renewed_lapses_a_margin_before_its_proof_ends() -> None:
    for renew in (fails, hangs):
        keeper = LeaseKeeper("segment", fresh(), renew, TIMING)

        lapse = await asyncio.wait_for(keeper.keep(), timeout=5)

        assert not lapse.superseded
        assert keeper.lease.proven_until > time.monotonic(), "there was no time left to stop anything"


async def test_a_lease_that_was_taken_lapses_at_once() -> None:
    lease = replace(fresh(), proven_until=time.monotonic() + 60)

    lapse = await asyncio.wait_for(LeaseKeeper("segment", lease, refused, TIMING).keep(), timeout=5)

    assert lapse.superseded


async def test_one_success_among_failures_is_enough() -> None:
    outcomes = [fails, works, fails, fails, works, works]

    async def renew(lease: Lease, limit_seconds: float) -> Lease:
        return await (outcomes.pop(0) if outcomes else works)(lease, limit_seconds)

    await kept_for(renew, 1.5 * LIFE_SECONDS)


async def test_a_process_that_stood_still_finds_its_lease_over_before_it_asks_anybody() -> None:
    now = [0.0]
    asked = []

    async def renew(lease: Lease, limit_seconds: float) -> Lease:
        asked.append(now[0])
        return replace(lease, proven_until=now[0] + LIFE_SECONDS)

    lease = replace(fresh(), proven_until=LIFE_SECONDS)
    keeper = LeaseKeeper("segment", lease, renew, TIMING, clock=lambda: now[0])
    keeping = asyncio.create_task(keeper.keep())
    await asyncio.sleep(0)
    now[0] = 60.0

    await asyncio.wait_for(keeping, timeout=5)

    assert asked == []


async def test_a_proof_that_is_over_when_it_comes_refreshes_nothing() -> None:
    refreshed: list[Lease] = []

    async def renew(lease: Lease, limit_seconds: float) -> Lease:
        # The request was sent long ago: this process stood still in between.
        return replace(lease, proven_until=time.monotonic() - 0.1)

    keeper = LeaseKeeper("segment", fresh(), renew, TIMING, renewed=refreshed.append)
    await asyncio.wait_for(keeper.keep(), timeout=5)

    assert refreshed == []


async def test_a_renewal_that_cannot_be_acted_on_is_still_a_renewal() -> None:
    def disk_full(lease: Lease) -> None:
        raise OSError("no space left on device")

    keeper = LeaseKeeper("segment", fresh(), works, TIMING, renewed=disk_full)
    keeping = asyncio.create_task(keeper.keep())
    done, _ = await asyncio.wait([keeping], timeout=1.5 * LIFE_SECONDS)
    keeping.cancel()
    await asyncio.wait([keeping])

    assert not done
