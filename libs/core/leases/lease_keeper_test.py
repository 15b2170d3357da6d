"""Keeping a lease: renewals in time, and the moment at which it counts as lost. All of it in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from libs.core.errors import Retryable
from libs.core.leases.lease import Holder, Lease, LeaseLost, Taken
from libs.core.leases.lease_keeper import LeaseKeeper, LeaseTiming
from tests.support.virtual_time import in_virtual_time

LIFE_SECONDS = 5.0
TIMING = LeaseTiming.of(LIFE_SECONDS, 1.0)

Renew = Callable[[Lease, float], Awaitable[Lease]]


def now() -> float:
    return asyncio.get_running_loop().time()


def fresh() -> Lease:
    return Lease(1, Holder("a", "a-1", "host"), 1, now() + LIFE_SECONDS)


def extended(lease: Lease) -> Lease:
    return replace(lease, proven_until=now() + LIFE_SECONDS)


def keeper_of(
    lease: Lease, renew: Renew, renewed: Callable[[Lease], Awaitable[None]] | None = None
) -> LeaseKeeper[Lease]:
    return LeaseKeeper("segment", lease, renew, TIMING, renewed=renewed, clock=now)


async def works(lease: Lease, limit_seconds: float) -> Lease:
    assert 0 < limit_seconds <= TIMING.attempt_seconds
    return extended(lease)


async def fails(lease: Lease, limit_seconds: float) -> Lease:
    raise Retryable("no database")


async def hangs(lease: Lease, limit_seconds: float) -> Lease:
    await asyncio.Event().wait()
    return lease


async def refused(lease: Lease, limit_seconds: float) -> Lease:
    raise LeaseLost("segment 1", lease.epoch, Taken.BY_SAME_WORKER)


async def kept_for(renew: Renew, seconds: float) -> LeaseKeeper[Lease]:
    keeper = keeper_of(fresh(), renew)
    await still_kept(keeper, seconds)
    return keeper


async def still_kept(keeper: LeaseKeeper[Lease], seconds: float) -> None:
    keeping = asyncio.create_task(keeper.keep())
    done, _ = await asyncio.wait([keeping], timeout=seconds)
    assert not done
    keeping.cancel()
    await asyncio.wait([keeping])


@in_virtual_time
async def test_renewals_keep_it_beyond_its_life() -> None:
    keeper = await kept_for(works, 10 * LIFE_SECONDS)

    assert keeper.safe_seconds() > 0


@in_virtual_time
async def test_a_lease_that_cannot_be_renewed_lapses_a_margin_before_its_proof_ends() -> None:
    for renew in (fails, hangs):
        keeper = keeper_of(fresh(), renew)

        lapse = await keeper.keep()

        assert lapse.taken is Taken.NO
        assert keeper.lease.proven_until - now() == pytest.approx(TIMING.margin_seconds, abs=0.2)


@in_virtual_time
async def test_attempt_that_hangs_leaves_time_for_a_second_attempt() -> None:
    limits = []

    async def renew(lease: Lease, limit_seconds: float) -> Lease:
        limits.append(limit_seconds)
        async with asyncio.timeout(limit_seconds):
            await asyncio.Event().wait()
        return lease

    await keeper_of(fresh(), renew).keep()

    # Renewed after 1 s, and given up 3.5 s after the last proof: two whole attempts of 1 s, and what is left then.
    assert limits[:2] == [TIMING.attempt_seconds, TIMING.attempt_seconds]
    assert all(0 < limit < TIMING.attempt_seconds for limit in limits[2:])


def test_timing_is_a_share_of_the_life() -> None:
    assert LeaseTiming.of(10.0, 2.0) == LeaseTiming(2.0, 2.0, 0.2, 3.0)


@in_virtual_time
async def test_renewals_follow_each_other_by_the_interval_also_when_requests_are_slow() -> None:
    begun = []

    async def slow(lease: Lease, limit_seconds: float) -> Lease:
        begun.append(now())
        await asyncio.sleep(0.4)
        return replace(lease, proven_until=begun[-1] + LIFE_SECONDS)

    await kept_for(slow, 4.5)

    assert begun == pytest.approx([1.0, 2.0, 3.0, 4.0])


@in_virtual_time
async def test_request_that_ignores_its_cancellation_delays_the_lapse_little() -> None:
    async def deaf(lease: Lease, limit_seconds: float) -> Lease:
        while now() < 60.0:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1.0)
        return lease

    await keeper_of(fresh(), deaf).keep()

    assert now() <= LIFE_SECONDS - TIMING.margin_seconds + 0.2
    await asyncio.sleep(60.0)


@in_virtual_time
async def test_request_under_way_is_cancelled_when_the_lease_lapses() -> None:
    cancelled = []

    async def renew(lease: Lease, limit_seconds: float) -> Lease:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(now())
            raise
        return lease

    keeper = keeper_of(fresh(), renew)

    await keeper.keep()

    assert len(cancelled) == 1


@in_virtual_time
async def test_failure_before_the_last_success_is_not_the_reason_of_the_lapse() -> None:
    outcomes = [fails, works]

    async def renew(lease: Lease, limit_seconds: float) -> Lease:
        return await (outcomes.pop(0) if outcomes else hangs)(lease, limit_seconds)

    lapse = await keeper_of(fresh(), renew).keep()

    assert lapse.reason == "it could not be renewed in time"


@in_virtual_time
async def test_failure_without_a_text_is_named_by_its_type() -> None:
    async def renew(lease: Lease, limit_seconds: float) -> Lease:
        raise OSError

    lapse = await keeper_of(fresh(), renew).keep()

    assert lapse.reason == "it could not be renewed in time: OSError"


@in_virtual_time
@pytest.mark.parametrize(("renew", "reason"), [(fails, "lost"), (refused, "superseded")])
async def test_lapse_is_counted_by_its_reason_from_zero_on(renew: Renew, reason: str) -> None:
    kind = f"of the test of {reason}"
    keeper = LeaseKeeper(kind, fresh(), renew, TIMING, clock=now)
    assert lapses(kind) == {"lost": 0.0, "superseded": 0.0}

    await keeper.keep()

    assert lapses(kind) == {"lost": 0.0, "superseded": 0.0, reason: 1.0}


def lapses(kind: str) -> dict[str, float | None]:
    name = "runtime_lease_lapses_total"
    return {
        reason: REGISTRY.get_sample_value(name, {"lease": kind, "reason": reason}) for reason in ("lost", "superseded")
    }


@in_virtual_time
async def test_a_lease_that_was_taken_lapses_at_once() -> None:
    keeper = keeper_of(fresh(), refused)

    lapse = await keeper.keep()

    assert lapse.taken is Taken.BY_SAME_WORKER
    assert now() == pytest.approx(TIMING.renew_interval_seconds)


@in_virtual_time
async def test_lease_survives_failures_between_successful_renewals() -> None:
    outcomes = [fails, works, fails, fails, works, works]

    async def renew(lease: Lease, limit_seconds: float) -> Lease:
        return await (outcomes.pop(0) if outcomes else works)(lease, limit_seconds)

    await kept_for(renew, 2 * LIFE_SECONDS)
    assert outcomes == []


@in_virtual_time
async def test_frozen_process_reports_lapse_without_a_request() -> None:
    stood_still_seconds = 0.0
    asked = []

    async def renew(lease: Lease, limit_seconds: float) -> Lease:
        asked.append(lease)
        return extended(lease)

    keeper = LeaseKeeper("segment", fresh(), renew, TIMING, clock=lambda: now() + stood_still_seconds)
    keeping = asyncio.create_task(keeper.keep())
    await asyncio.sleep(0)
    stood_still_seconds = 60.0

    await keeping

    assert asked == []


@in_virtual_time
async def test_a_proof_that_is_over_when_it_comes_refreshes_nothing() -> None:
    refreshed: list[Lease] = []

    async def renew(lease: Lease, limit_seconds: float) -> Lease:
        # The request was sent long ago: this process stood still in between.
        return replace(lease, proven_until=now() - 0.1)

    async def refresh(lease: Lease) -> None:
        refreshed.append(lease)

    await keeper_of(fresh(), renew, refresh).keep()

    assert refreshed == []


@in_virtual_time
async def test_renewal_that_cannot_be_acted_on_lapses_with_the_last_one_that_could() -> None:
    async def disk_full(lease: Lease) -> None:
        raise OSError("no space left on device")

    keeper = keeper_of(fresh(), works, disk_full)

    lapse = await keeper.keep()

    assert lapse.taken is Taken.NO
    assert "no space left on device" in lapse.reason
    assert now() == pytest.approx(LIFE_SECONDS - TIMING.margin_seconds, abs=0.2)


@in_virtual_time
async def test_renewal_that_hangs_while_it_is_acted_on_lapses() -> None:
    async def hang(lease: Lease) -> None:
        await asyncio.Event().wait()

    await keeper_of(fresh(), works, hang).keep()

    assert now() == pytest.approx(LIFE_SECONDS - TIMING.margin_seconds, abs=0.2)


@in_virtual_time
async def test_renewal_that_is_acted_on_at_the_second_try_keeps_the_lease() -> None:
    failures = [OSError("no space left on device")] * 3

    async def sometimes(lease: Lease) -> None:
        if failures:
            raise failures.pop()

    keeper = keeper_of(fresh(), works, sometimes)

    await still_kept(keeper, 2 * LIFE_SECONDS)

    assert keeper.safe_seconds() > 0
