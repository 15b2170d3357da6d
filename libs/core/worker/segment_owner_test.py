"""Owning one segment, in virtual time: what is acquired, reported, stopped and released, when, and in which order.

The lease store and the handler are scripts; tests against real ones are in libs/core/master and beside this file.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from libs.core.leases.lease import (
    Holder,
    Lease,
    LeaseHeld,
    LeaseLost,
    LeaseView,
    SegmentMissing,
    Taken,
    TakeoverTooEarly,
)
from libs.core.leases.lease_keeper import LeaseTiming
from libs.core.room import Demand
from libs.core.store.client import StoreUnavailable
from libs.core.worker.handler import OwnedSegment
from libs.core.worker.segment_owner import SegmentOwner, WorkerSuperseded
from tests.support.virtual_time import in_virtual_time

LIFE_SECONDS = 5.0
TIMING = LeaseTiming.of(LIFE_SECONDS, 1.0)
ME = Holder("a", "a-1", "host")
OTHER = Holder("b", "b-1", "host-2")
STOP_GRACE_SECONDS = 30.0
URGENT_GRACE_SECONDS = 0.5


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class ScriptedLeases:
    """Grants every lease, but for the faults that a test puts into its lists or fields."""

    acquire_faults: list[Exception] = field(default_factory=list)
    acquire_seconds: list[float] = field(default_factory=list)
    renew_fault: Exception | None = None
    release_faults: list[Exception] = field(default_factory=list)
    taken_answer: Taken | Exception = Taken.NO
    unreachable: Exception | None = None
    asked: list[float] = field(default_factory=list)
    formers: list[LeaseView | None] = field(default_factory=list)
    renewed: list[float] = field(default_factory=list)
    released: list[tuple[float, int]] = field(default_factory=list)
    release_attempts: int = 0
    cede_faults: list[Exception] = field(default_factory=list)
    cede_attempts: int = 0
    ceded: list[tuple[float, int, float]] = field(default_factory=list)
    questions: int = 0
    epoch: int = 0
    frozen_seconds: float = 0.0

    async def acquire(self, segment_id: int, holder: Holder, *, former: LeaseView | None) -> Lease:
        sent = now()
        self.formers.append(former)
        self.asked.append(sent)
        if self.acquire_seconds:
            await asyncio.sleep(self.acquire_seconds.pop(0))
        if self.acquire_faults:
            raise self.acquire_faults.pop(0)
        self.epoch += 1
        return Lease(segment_id, holder, self.epoch, sent + self.frozen_seconds + LIFE_SECONDS)

    async def renew(self, lease: Lease, *, timeout_seconds: float) -> Lease:
        assert 0 < timeout_seconds <= TIMING.attempt_seconds
        if self.renew_fault is not None:
            raise self.renew_fault
        self.renewed.append(now())
        return replace(lease, proven_until=now() + self.frozen_seconds + LIFE_SECONDS)

    async def release(self, lease: Lease, *, timeout_seconds: float) -> None:
        self.release_attempts += 1
        if self.release_faults:
            raise self.release_faults.pop(0)
        self.released.append((now(), lease.epoch))

    async def cede(self, lease: Lease, hold_seconds: float, *, timeout_seconds: float) -> None:
        self.cede_attempts += 1
        if self.cede_faults:
            raise self.cede_faults.pop(0)
        self.ceded.append((now(), lease.epoch, hold_seconds))

    async def reachable(self, *, timeout_seconds: float) -> None:
        assert timeout_seconds == 1.0
        if self.unreachable is not None:
            raise self.unreachable

    async def taken(self, lease: Lease, *, timeout_seconds: float) -> Taken:
        self.questions += 1
        if isinstance(self.taken_answer, Exception):
            raise self.taken_answer
        return self.taken_answer


@dataclass
class ScriptedHandler:
    """Notes its calls, in order, with the time."""

    calls: list[tuple[str, float]] = field(default_factory=list)
    graces: list[float] = field(default_factory=list)
    refresh_faults: list[Exception] = field(default_factory=list)
    stop_faults: list[Exception] = field(default_factory=list)
    stop_seconds: float = 0.0
    expire_seconds: float = 0.0
    deaf_seconds: float = 0.0
    promise: float | Exception | None = None
    promise_seconds: float = 0.0
    promise_graces: list[float] = field(default_factory=list)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls if name != "renewed"]

    def at(self, name: str) -> float:
        return next(at for called, at in self.calls if called == name)

    async def run(self, owned: OwnedSegment) -> None:
        self.calls.append(("run", now()))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            until = now() + self.deaf_seconds
            while now() < until:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(max(0.01, until - now()))
            self.calls.append(("run ended", now()))
            raise

    async def renewed(self, lease: Lease) -> None:
        self.calls.append(("renewed", now()))
        if self.refresh_faults:
            raise self.refresh_faults.pop(0)

    async def expire(self, owned: OwnedSegment) -> None:
        self.calls.append(("expire", now()))
        await asyncio.sleep(self.expire_seconds)

    async def stop_all(self, owned: OwnedSegment, grace_seconds: float) -> None:
        self.calls.append(("stop", now()))
        self.graces.append(grace_seconds)
        if self.stop_faults:
            raise self.stop_faults.pop(0)
        await asyncio.sleep(self.stop_seconds)
        self.calls.append(("stopped", now()))

    async def promise_ends(self, owned: OwnedSegment, grace_seconds: float) -> float | None:
        self.promise_graces.append(grace_seconds)
        await asyncio.sleep(self.promise_seconds)
        if isinstance(self.promise, Exception):
            raise self.promise
        if self.promise is not None:
            self.calls.append(("promised", now()))
        return self.promise

    def leave(self, owned: OwnedSegment) -> None:
        self.calls.append(("leave", now()))

    def running(self) -> int:
        return 0

    def demand(self, segment_id: int) -> Demand:
        return Demand()


@dataclass
class Reports:
    """What the owner reports."""

    engine_lost: bool = False
    has_neighbour: bool = False
    takes: bool = True
    """Whether the neighbour takes what it is offered, *answer_seconds* after the offer."""
    answer_seconds: float = 0.1
    offered: list[tuple[float, int]] = field(default_factory=list)
    not_taken: list[int] = field(default_factory=list)
    changes: int = 0
    faults: list[str] = field(default_factory=list)

    def changed(self) -> None:
        self.changes += 1

    def store_answered(self, fault: str) -> None:
        self.faults.append(fault)

    def not_taken_over(self, segment_id: int) -> None:
        self.not_taken.append(segment_id)

    async def can_hand_over(self) -> bool:
        return self.has_neighbour

    async def hand_over(self, lease: Lease) -> bool:
        self.offered.append((now(), lease.epoch))
        await asyncio.sleep(self.answer_seconds)
        return self.takes


class Rig:
    """One owner with scripts around it. Its clock is ahead of the loop's by the *frozen_seconds* of its leases."""

    def __init__(self) -> None:
        self.leases = ScriptedLeases()
        self.handler = ScriptedHandler()
        self.reports = Reports()
        leases: Any = self.leases
        self.owner = SegmentOwner(
            1,
            leases,
            self.handler,
            ME,
            TIMING,
            self.reports,
            stop_grace_seconds=STOP_GRACE_SECONDS,
            urgent_grace_seconds=URGENT_GRACE_SECONDS,
            clock=lambda: now() + self.leases.frozen_seconds,
        )
        self.task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        self.owner.want()
        self.task = asyncio.create_task(self.owner.run())
        try:
            yield self.task
        finally:
            self.task.cancel()
            await asyncio.wait([self.task])

    async def until(self, condition: Any, within_seconds: float = 120.0) -> None:
        limit = now() + within_seconds
        while not condition():
            assert now() < limit, (self.handler.calls, self.leases, self.owner.refusal)
            await asyncio.sleep(0.001)

    async def owned(self) -> OwnedSegment:
        await self.until(lambda: self.owner.owned is not None and "run" in self.handler.names())
        assert self.owner.owned is not None
        return self.owner.owned


# --- acquiring


@in_virtual_time
async def test_wanted_segment_is_acquired_made_known_and_then_run() -> None:
    rig = Rig()
    before = REGISTRY.get_sample_value("runtime_segments_acquired_total") or 0.0
    async with rig.running():
        owned = await rig.owned()

        assert (owned.segment_id, owned.epoch) == (1, 1)
        assert [name for name, _ in rig.handler.calls] == ["renewed", "run"]
        assert (rig.reports.faults, rig.owner.refusal) == ([""], "")
        assert rig.reports.changes > 0
        assert REGISTRY.get_sample_value("runtime_segments_acquired_total") == before + 1


@in_virtual_time
async def test_segment_held_by_another_is_asked_for_twice_a_second_and_is_no_impediment() -> None:
    rig = Rig()
    rig.leases.acquire_faults = [StoreUnavailable("gone")] + [LeaseHeld("segment 1", OTHER, 30.0)] * 4
    async with rig.running():
        await rig.owned()

    assert rig.leases.asked[2:] == pytest.approx([rig.leases.asked[1] + 0.5 * n for n in (1, 2, 3, 4)])
    assert set(rig.reports.faults) == {""}
    assert rig.owner.refusal == ""


@in_virtual_time
async def test_segment_whose_lease_is_about_to_end_is_asked_for_just_then() -> None:
    rig = Rig()
    # The wish itself ends the first wait.
    rig.leases.acquire_faults = [LeaseHeld("segment 1", OTHER, 0.2)] * 2
    async with rig.running():
        await rig.owned()

    assert rig.leases.asked == pytest.approx([0.0, 0.0, 0.21])


@in_virtual_time
async def test_lapsed_lease_of_another_that_must_wait_is_acquired_then_and_is_no_impediment() -> None:
    rig = Rig()
    # The wish itself ends the first wait.
    rig.leases.acquire_faults = [TakeoverTooEarly("segment 1", 0.3)] * 2
    async with rig.running():
        await rig.owned()

    assert rig.leases.asked == pytest.approx([0.0, 0.0, 0.31])
    assert (set(rig.reports.faults), rig.owner.refusal) == ({""}, "")


@in_virtual_time
async def test_store_that_fails_twice_is_an_impediment_until_it_answers() -> None:
    rig = Rig()
    rig.leases.acquire_faults = [StoreUnavailable("down")] * 2
    async with rig.running():
        await rig.owned()

    assert rig.reports.faults == ["MongoDB is unavailable: down", ""]
    assert rig.owner.refusal == ""


@in_virtual_time
async def test_store_that_answers_that_another_has_the_segment_is_no_impediment_any_more() -> None:
    rig = Rig()
    held = LeaseHeld("segment 1", OTHER, 30.0)
    rig.leases.acquire_faults = [StoreUnavailable("down"), StoreUnavailable("down"), *[held] * 100]
    async with rig.running():
        await rig.until(lambda: len(rig.leases.asked) == 4)

        assert rig.reports.faults[:2] == ["MongoDB is unavailable: down", ""]
        assert rig.owner.owned is None


@in_virtual_time
async def test_store_that_fails_once_is_no_impediment() -> None:
    rig = Rig()
    rig.leases.acquire_faults = [StoreUnavailable("down")]
    async with rig.running():
        await rig.owned()

    assert rig.reports.faults == [""]


@in_virtual_time
async def test_segment_that_cannot_be_acquired_is_refused_by_its_reason_until_it_can() -> None:
    rig = Rig()
    rig.leases.acquire_faults = [SegmentMissing(1)] * 3
    async with rig.running():
        await rig.until(lambda: rig.owner.refusal)
        assert rig.owner.refusal == "segment 1 does not exist"
        assert len(rig.leases.asked) == 2
        assert rig.reports.changes == 1

        await rig.owned()

    assert rig.owner.refusal == ""
    assert rig.reports.faults == [""]


@in_virtual_time
async def test_lease_whose_grant_came_too_late_is_acquired_anew() -> None:
    rig = Rig()
    rig.leases.acquire_seconds = [LIFE_SECONDS - TIMING.margin_seconds + 0.01]
    async with rig.running():
        owned = await rig.owned()

        assert owned.epoch == 2
        assert rig.handler.names() == ["run"]


@in_virtual_time
async def test_segment_not_wanted_any_more_is_not_acquired() -> None:
    rig = Rig()
    rig.leases.acquire_faults = [LeaseHeld("segment 1", OTHER, 30.0)] * 1000
    async with rig.running() as task:
        await asyncio.sleep(0.1)
        rig.owner.give_back()
        await asyncio.wait_for(task, 0.01)

    assert (rig.leases.epoch, rig.leases.released, rig.handler.calls) == (0, [], [])


# --- a keepalive that cannot be written


@in_virtual_time
async def test_acquired_lease_that_cannot_be_made_known_is_released_once_containers_are_stopped() -> None:
    rig = Rig()
    rig.handler.refresh_faults = [OSError("no space left on device")]
    rig.handler.stop_seconds = 0.3
    async with rig.running():
        await rig.until(lambda: rig.owner.refusal)
        assert "no space left on device" in rig.owner.refusal
        assert rig.leases.released[0] == pytest.approx((0.3, 1))
        assert rig.handler.names() == ["stop", "stopped"]
        assert rig.handler.graces == [URGENT_GRACE_SECONDS]
        assert rig.owner.owned is None

        owned = await rig.owned()

    assert owned.epoch == 2
    assert rig.leases.asked[1] == pytest.approx(2.3, abs=0.01)
    assert rig.owner.refusal == ""


@in_virtual_time
async def test_acquired_lease_that_cannot_be_made_known_runs_out_while_containers_cannot_be_stopped() -> None:
    rig = Rig()
    rig.handler.refresh_faults = [OSError("no space left on device")]
    rig.handler.stop_seconds = 1000.0
    async with rig.running():
        await rig.until(lambda: rig.owner.refusal)

        assert now() == pytest.approx(LIFE_SECONDS, abs=0.01)
        assert rig.leases.released == []


@in_virtual_time
async def test_keepalive_that_hangs_counts_as_one_that_cannot_be_written() -> None:
    rig = Rig()

    async def hang(lease: Lease) -> None:
        await asyncio.Event().wait()

    rig.handler.renewed = hang  # type: ignore[method-assign]
    async with rig.running():
        await rig.until(lambda: rig.owner.refusal)

        assert rig.owner.refusal == "its keepalive cannot be written: TimeoutError"
        assert rig.leases.released[0][0] == pytest.approx(TIMING.attempt_seconds)


@in_virtual_time
async def test_refused_segment_that_is_given_back_ends_at_once() -> None:
    rig = Rig()
    rig.handler.refresh_faults = [OSError("no space left on device")]
    async with rig.running() as task:
        await rig.until(lambda: rig.owner.refusal)
        await asyncio.sleep(0.1)
        rig.owner.give_back()
        await asyncio.wait_for(task, 0.01)

    assert rig.leases.epoch == 1


# --- giving it back


@in_virtual_time
async def test_segment_is_given_back_after_its_containers_have_stopped_while_it_is_renewed() -> None:
    rig = Rig()
    rig.handler.stop_seconds = 20.0
    async with rig.running() as task:
        await rig.owned()
        changes = rig.reports.changes
        rig.owner.give_back()
        await asyncio.wait_for(task, 60)

    assert rig.reports.changes == changes + 1
    assert rig.handler.names() == ["run", "run ended", "stop", "stopped"]
    assert rig.handler.graces == [STOP_GRACE_SECONDS]
    assert rig.leases.released[0] == pytest.approx((rig.handler.at("stopped"), 1), abs=0.01)
    assert rig.leases.release_attempts == 1
    assert rig.leases.renewed[-1] == pytest.approx(rig.handler.at("stopped"), abs=1.01)
    assert rig.owner.owned is None


@in_virtual_time
async def test_stop_that_fails_is_repeated_before_the_lease_is_released() -> None:
    rig = Rig()
    rig.handler.stop_faults = [OSError("no engine")] * 3
    async with rig.running() as task:
        await rig.owned()
        rig.owner.give_back()
        await asyncio.wait_for(task, 60)

    assert rig.handler.names()[2:] == ["stop"] * 4 + ["stopped"]
    assert len(rig.leases.released) == 1


@in_virtual_time
async def test_release_that_fails_is_repeated_while_the_lease_is_proven() -> None:
    rig = Rig()
    rig.leases.release_faults = [StoreUnavailable("down")] * 5
    async with rig.running() as task:
        await rig.owned()
        rig.owner.give_back()
        await asyncio.wait_for(task, 60)

    assert rig.leases.release_attempts == 6
    assert len(rig.leases.released) == 1


@in_virtual_time
async def test_release_that_never_succeeds_leaves_the_lease_to_run_out() -> None:
    rig = Rig()
    rig.leases.release_faults = [StoreUnavailable("down")] * 1000
    async with rig.running() as task:
        await rig.owned()
        rig.owner.give_back()
        await asyncio.wait_for(task, 60)

    assert now() == pytest.approx(LIFE_SECONDS, abs=0.2)


@in_virtual_time
async def test_handler_that_goes_on_after_its_cancellation_is_stopped_again_when_it_has_ended() -> None:
    rig = Rig()
    rig.handler.deaf_seconds = 15.0
    async with rig.running() as task:
        await rig.owned()
        rig.owner.give_back()
        await asyncio.wait_for(task, 60)

    assert rig.handler.names() == ["run", "stop", "stopped", "run ended", "stop", "stopped"]
    assert rig.handler.at("stop") == pytest.approx(5.0, abs=0.1)
    assert rig.leases.released[0][0] >= rig.handler.at("run ended")


@in_virtual_time
async def test_segment_of_a_lost_engine_is_left_to_run_out_and_not_released() -> None:
    rig = Rig()
    rig.handler.stop_seconds = 1000.0
    async with rig.running() as task:
        owned = await rig.owned()
        rig.reports.engine_lost = True
        rig.owner.give_back()
        await asyncio.wait_for(task, 60)

        assert rig.handler.names() == ["run", "run ended", "stop", "expire"]
        assert now() >= owned.lease.proven_until
        assert now() == pytest.approx(owned.lease.proven_until, abs=0.5)
        assert rig.handler.at("expire") == pytest.approx(2.0, abs=0.1)
        assert rig.leases.released == []
        assert rig.leases.renewed[-1] < rig.handler.at("expire")


@in_virtual_time
async def test_segment_whose_engine_answers_again_is_released() -> None:
    rig = Rig()
    rig.handler.stop_seconds = 1.5
    rig.reports.engine_lost = True
    async with rig.running() as task:
        await rig.owned()
        rig.owner.give_back()
        await asyncio.wait_for(task, 60)

    assert rig.handler.names() == ["run", "run ended", "stop", "stopped"]
    assert len(rig.leases.released) == 1


# --- losing it


@in_virtual_time
async def test_lost_segment_is_refused_until_the_store_has_answered_again() -> None:
    rig = Rig()
    down = StoreUnavailable("down")
    async with rig.running():
        await rig.owned()
        rig.leases.renew_fault = rig.leases.unreachable = down
        rig.leases.release_faults = [down]
        await rig.until(lambda: "stopped" in rig.handler.names())
        await asyncio.sleep(60.0)

        assert rig.owner.refusal.startswith("MongoDB has not answered since its lease was lost")
        assert rig.reports.faults[1].startswith("MongoDB does not answer: it could not be renewed in time")
        assert set(rig.reports.faults[2:]) == {"MongoDB is unavailable: down"}
        assert rig.leases.epoch == 1

        rig.leases.renew_fault = rig.leases.unreachable = None
        await rig.until(lambda: rig.leases.epoch == 2 and not rig.owner.refusal)


@in_virtual_time
async def test_segment_lost_in_silence_and_taken_away_stays_refused() -> None:
    rig = Rig()
    down = StoreUnavailable("down")
    async with rig.running() as task:
        await rig.owned()
        rig.leases.renew_fault = rig.leases.unreachable = down
        rig.leases.release_faults = [down]
        await rig.until(lambda: rig.owner.refusal.startswith("MongoDB has not answered"))
        rig.owner.give_back()
        await asyncio.wait_for(task, 5.0)

    assert rig.owner.refusal.startswith("MongoDB has not answered since its lease was lost")


@in_virtual_time
async def test_store_that_does_not_answer_gets_no_second_request_for_the_lease_before_a_read_succeeds() -> None:
    rig = Rig()
    rig.leases.acquire_faults = [StoreUnavailable("no answer")]
    rig.leases.unreachable = StoreUnavailable("no answer")
    async with rig.running():
        await asyncio.sleep(60.0)
        assert len(rig.leases.asked) == 1
        assert rig.reports.faults[-1] == "MongoDB is unavailable: no answer"

        rig.leases.unreachable = None
        await rig.owned()


@in_virtual_time
async def test_lease_found_lost_expires_the_keepalive_first_and_ends_its_proof() -> None:
    rig = Rig()
    rig.leases.renew_fault = LeaseLost("segment 1", 1)
    rig.handler.deaf_seconds = 10.0
    async with rig.running():
        owned = await rig.owned()
        await rig.until(lambda: "stop" in rig.handler.names())

        assert rig.handler.names()[:3] == ["run", "expire", "stop"]
        assert rig.handler.at("expire") == pytest.approx(1.0, abs=0.01)
        assert not owned.proven(0.0)
        assert rig.leases.questions == 0


@in_virtual_time
async def test_keepalive_that_hangs_delays_the_stop_of_a_lease_found_lost_little() -> None:
    rig = Rig()
    rig.leases.renew_fault = LeaseLost("segment 1", 1)
    rig.handler.expire_seconds = 100.0
    async with rig.running():
        await rig.until(lambda: "stop" in rig.handler.names())

        assert rig.handler.at("stop") <= 1.0 + TIMING.attempt_seconds + 0.1


@in_virtual_time
async def test_lease_that_cannot_be_proven_keeps_the_grace_of_its_containers() -> None:
    rig = Rig()
    rig.leases.renew_fault = StoreUnavailable("down")
    async with rig.running():
        await rig.until(lambda: "stopped" in rig.handler.names())

        assert "expire" not in rig.handler.names()


@in_virtual_time
async def test_lease_that_cannot_be_renewed_is_left_at_rest_before_it_ends() -> None:
    rig = Rig()
    rig.leases.renew_fault = StoreUnavailable("down")
    rig.handler.stop_seconds = 0.5
    async with rig.running():
        owned = await rig.owned()
        await rig.until(lambda: rig.owner.refusal)
        assert rig.owner.owned is None
        assert "still being stopped" in rig.owner.refusal
        await rig.until(lambda: "stopped" in rig.handler.names())
        assert now() < owned.lease.proven_until
        assert rig.handler.graces == [URGENT_GRACE_SECONDS]
        assert rig.handler.names()[:4] == ["run", "run ended", "stop", "stopped"]

        await rig.until(lambda: rig.leases.epoch == 2)

    assert [epoch for _, epoch in rig.leases.released] == [1]
    assert rig.owner.refusal == ""


@in_virtual_time
async def test_lost_lease_is_released_once_and_not_again_when_that_fails() -> None:
    rig = Rig()
    rig.leases.renew_fault = StoreUnavailable("down")
    rig.leases.release_faults = [StoreUnavailable("down")]
    async with rig.running():
        await rig.until(lambda: rig.leases.epoch == 2)

    assert rig.leases.release_attempts == 1


@in_virtual_time
async def test_handler_that_goes_on_after_the_loss_delays_the_stop_little() -> None:
    rig = Rig()
    rig.leases.renew_fault = LeaseLost("segment 1", 1)
    rig.handler.deaf_seconds = 10.0
    async with rig.running():
        await rig.until(lambda: "stop" in rig.handler.names())

        assert rig.handler.at("stop") == pytest.approx(1.2, abs=0.05)


@in_virtual_time
async def test_owner_that_is_superseded_ends_and_stops_nothing() -> None:
    rig = Rig()
    rig.leases.renew_fault = LeaseLost("segment 1", 1, Taken.BY_SAME_WORKER)
    async with rig.running() as task:
        with pytest.raises(WorkerSuperseded, match="worker id 'a'"):
            await asyncio.wait_for(task, 60)

    assert rig.handler.names() == ["run", "run ended"]
    assert (rig.leases.released, rig.leases.questions, rig.owner.owned) == ([], 0, None)


@in_virtual_time
@pytest.mark.parametrize(
    "answer", [Taken.BY_SAME_WORKER, Taken.NO, StoreUnavailable("down")], ids=["taken over", "not", "unknown"]
)
async def test_owner_that_stood_still_until_its_lease_ended_asks_for_a_successor(answer: Taken | Exception) -> None:
    rig = Rig()
    rig.leases.taken_answer = answer
    async with rig.running() as task:
        await rig.owned()
        rig.leases.frozen_seconds = 60.0
        await rig.until(lambda: task.done() or "stopped" in rig.handler.names())

    assert rig.leases.questions == 1
    assert ("stop" in rig.handler.names()) == (answer is not Taken.BY_SAME_WORKER)
    assert (task.done() and isinstance(task.exception() if not task.cancelled() else None, WorkerSuperseded)) == (
        answer is Taken.BY_SAME_WORKER
    )


@in_virtual_time
async def test_owner_that_detects_loss_in_time_sends_no_request() -> None:
    rig = Rig()
    rig.leases.renew_fault = StoreUnavailable("down")
    rig.leases.taken_answer = Taken.BY_SAME_WORKER
    async with rig.running():
        await rig.until(lambda: "stopped" in rig.handler.names())

    assert rig.leases.questions == 0


@in_virtual_time
async def test_lease_lost_while_it_is_given_back_is_left_by_the_urgent_way() -> None:
    rig = Rig()
    rig.handler.stop_seconds = 20.0
    async with rig.running() as task:
        await rig.owned()
        rig.owner.give_back()
        await asyncio.sleep(2.0)
        rig.leases.renew_fault = StoreUnavailable("down")
        await asyncio.wait_for(task, 60)

    assert rig.handler.graces == [STOP_GRACE_SECONDS, URGENT_GRACE_SECONDS]
    assert rig.leases.epoch == 1


@in_virtual_time
async def test_cancelled_owner_leaves_containers_and_lease_as_they_are() -> None:
    rig = Rig()
    async with rig.running():
        await rig.owned()

    assert rig.handler.names() == ["run", "run ended"]
    assert (rig.leases.released, rig.owner.owned) == ([], None)


@in_virtual_time
async def test_renewed_lease_is_the_one_that_the_handler_sees() -> None:
    rig = Rig()
    async with rig.running():
        owned = await rig.owned()
        await asyncio.sleep(30.0)

        assert owned.proven_seconds() > LIFE_SECONDS - 1.5
        assert [name for name, _ in rig.handler.calls].count("renewed") == pytest.approx(31, abs=1)


# --- other workers of the engine

NEIGHBOUR = Holder("n", "n-1", "host")


@in_virtual_time
async def test_lease_of_a_dead_neighbour_is_acquired_as_it_was_read() -> None:
    rig = Rig()
    former = LeaseView(1, NEIGHBOUR, 4, 3.0)
    rig.leases.acquire_faults = [StoreUnavailable("gone")]
    rig.owner.take_over(former)
    async with rig.running():
        await rig.owned()

    assert rig.leases.formers == [former, former]
    assert rig.reports.not_taken == []


@in_virtual_time
async def test_lease_is_not_taken_over_a_second_time() -> None:
    rig = Rig()
    rig.owner.take_over(LeaseView(1, NEIGHBOUR, 4, 3.0))
    async with rig.running():
        await rig.owned()
        rig.leases.renew_fault = LeaseLost("segment 1", 1)
        await rig.until(lambda: len(rig.leases.formers) == 2)

    assert rig.leases.formers[1:] == [None]


@in_virtual_time
@pytest.mark.parametrize("fault", [LeaseHeld("segment 1", OTHER, 30.0), TakeoverTooEarly("segment 1", 3.0)])
async def test_lease_that_changed_before_its_takeover_is_reported_and_waited_for(fault: Exception) -> None:
    rig = Rig()
    rig.leases.acquire_faults = [fault]
    rig.owner.take_over(LeaseView(1, NEIGHBOUR, 4, 3.0))
    async with rig.running():
        await rig.owned()

    assert rig.reports.not_taken == [1]
    assert rig.leases.formers[1:] == [None]


@in_virtual_time
async def test_segment_goes_to_a_neighbour_without_a_stop_or_a_release() -> None:
    rig = Rig()
    rig.reports.has_neighbour = True
    async with rig.running() as task:
        owned = await rig.owned()
        renewals = len(rig.leases.renewed)

        rig.owner.give_back()
        rig.reports.answer_seconds = 2.5
        await asyncio.wait_for(task, 60)

    assert rig.handler.names() == ["run", "run ended", "leave"]
    [(offered_at, epoch)] = rig.reports.offered
    assert epoch == 1
    assert offered_at == pytest.approx(rig.handler.at("run ended"))
    assert len(rig.leases.renewed) > renewals, "the lease is renewed until it is taken"
    assert (rig.leases.released, rig.owner.owned, owned.is_handed_over) == ([], None, True)


@in_virtual_time
async def test_segment_that_no_neighbour_takes_is_stopped_and_released() -> None:
    rig = Rig()
    rig.reports.has_neighbour, rig.reports.takes = True, False
    async with rig.running() as task:
        await rig.owned()

        rig.owner.give_back()
        await asyncio.wait_for(task, 60)

    assert rig.handler.names() == ["run", "run ended", "stop", "stopped"]
    assert rig.handler.graces == [STOP_GRACE_SECONDS]
    assert [epoch for _, epoch in rig.leases.released] == [1]


@in_virtual_time
async def test_segment_whose_work_does_not_end_is_offered_to_no_neighbour() -> None:
    rig = Rig()
    rig.reports.has_neighbour = True
    rig.handler.deaf_seconds = 10.0
    async with rig.running() as task:
        await rig.owned()

        rig.owner.give_back()
        await asyncio.wait_for(task, 60)

    assert rig.reports.offered == []
    assert "stop" in rig.handler.names()


@in_virtual_time
async def test_lease_that_a_neighbour_has_leaves_containers_and_keepalive_to_it() -> None:
    rig = Rig()
    rig.leases.renew_fault = LeaseLost("segment 1", 1, Taken.BY_NEIGHBOUR)
    async with rig.running():
        await rig.owned()
        await rig.until(lambda: "leave" in rig.handler.names())

        assert rig.handler.names()[:3] == ["run", "run ended", "leave"]
    assert rig.leases.released == []


@in_virtual_time
async def test_offer_whose_answer_is_lost_ends_with_the_renewal_that_shows_the_new_owner() -> None:
    rig = Rig()
    rig.reports.has_neighbour, rig.reports.answer_seconds = True, 60.0
    async with rig.running() as task:
        await rig.owned()
        rig.owner.give_back()
        await rig.until(lambda: rig.reports.offered)

        rig.leases.renew_fault = LeaseLost("segment 1", 1, Taken.BY_NEIGHBOUR)
        await asyncio.wait_for(task, 60)

    assert rig.handler.names() == ["run", "run ended", "leave"]
    assert rig.leases.released == []


@in_virtual_time
async def test_owner_that_stood_still_leaves_the_containers_to_a_neighbour_that_has_its_lease() -> None:
    rig = Rig()
    rig.leases.taken_answer = Taken.BY_NEIGHBOUR
    async with rig.running():
        await rig.owned()
        rig.leases.frozen_seconds = 60.0
        await rig.until(lambda: "leave" in rig.handler.names())

    assert "stop" not in rig.handler.names()


# --- giving a segment away while its containers stop


@asynccontextmanager
async def given_back(rig: Rig) -> AsyncIterator[asyncio.Task[None]]:
    """The owner from the moment on at which its segment is given back."""
    async with rig.running() as task:
        await rig.owned()
        rig.owner.give_back()
        yield task


@in_virtual_time
async def test_lease_goes_over_at_once_when_all_containers_have_a_last_deadline() -> None:
    rig = Rig()
    rig.handler.promise, rig.handler.stop_seconds = 31.0, 30.0
    async with given_back(rig) as task:
        await rig.until(lambda: rig.leases.ceded)

        assert rig.handler.promise_graces == [STOP_GRACE_SECONDS]
        [(ceded_at, *ceded)] = rig.leases.ceded
        assert ceded_at == pytest.approx(rig.handler.at("promised"), abs=0.2)
        assert ceded == [1, 32.0]
        assert rig.owner.owned is None
        assert not task.done()
        await rig.until(lambda: task.done())
    assert rig.handler.names() == ["run", "run ended", "promised", "stop", "stopped"]
    assert rig.handler.graces == [STOP_GRACE_SECONDS]
    # Free for older versions too, once nothing runs.
    [(released_at, _)] = rig.leases.released
    assert released_at == pytest.approx(rig.handler.at("stopped"), abs=0.2)
    assert max(rig.leases.renewed, default=0.0) <= rig.handler.at("promised")


@pytest.mark.parametrize("promise", [None, StoreUnavailable("away")])
@in_virtual_time
async def test_lease_is_kept_until_the_end_of_containers_without_a_last_deadline(promise: Exception | None) -> None:
    rig = Rig()
    rig.handler.promise, rig.handler.stop_seconds = promise, 30.0
    async with given_back(rig) as task:
        await rig.until(lambda: task.done())

    assert rig.leases.ceded == []
    [(released_at, _)] = rig.leases.released
    assert released_at == pytest.approx(rig.handler.at("stopped"), abs=0.2)
    assert max(rig.leases.renewed) > rig.handler.at("stopped") - 1.5


@in_virtual_time
async def test_lease_is_kept_when_a_promise_takes_too_long() -> None:
    rig = Rig()
    rig.handler.promise, rig.handler.promise_seconds = 31.0, 60.0
    async with given_back(rig) as task:
        await rig.until(lambda: task.done())

    assert (rig.leases.ceded, rig.handler.names()) == ([], ["run", "run ended", "stop", "stopped"])
    assert len(rig.leases.released) == 1


@in_virtual_time
async def test_nothing_is_promised_while_the_handler_may_start_containers_or_the_engine_is_lost() -> None:
    for spoil in ("deaf", "lost"):
        rig = Rig()
        rig.handler.promise = 31.0
        if spoil == "deaf":
            rig.handler.deaf_seconds = 20.0
        rig.reports.engine_lost = spoil == "lost"
        async with given_back(rig) as task:
            await rig.until(lambda task=task: task.done())
        assert (rig.leases.ceded, rig.handler.promise_graces) == ([], [])


@in_virtual_time
async def test_lease_that_ends_during_the_promise_is_lost_as_usual() -> None:
    rig = Rig()
    rig.handler.promise, rig.handler.promise_seconds = 31.0, 9.0
    async with given_back(rig):
        rig.leases.renew_fault = LeaseLost("segment 1", 1)
        await rig.until(lambda: "expire" in rig.handler.names())

    assert rig.leases.ceded == []
    assert rig.handler.graces[:1] == [URGENT_GRACE_SECONDS]


@in_virtual_time
async def test_lease_is_ceded_again_until_its_proof_ends_and_containers_stop_meanwhile() -> None:
    rig = Rig()
    rig.handler.promise, rig.handler.stop_seconds = 31.0, 1.0
    rig.leases.cede_faults = [StoreUnavailable("away")] * 1000
    async with given_back(rig) as task:
        await rig.until(lambda: task.done())

    assert rig.leases.cede_attempts > 10
    assert rig.leases.ceded == []
    assert rig.handler.at("stopped") < rig.handler.at("promised") + 1.5


@in_virtual_time
async def test_ceding_is_over_when_another_has_the_lease() -> None:
    rig = Rig()
    rig.handler.promise = 31.0
    rig.leases.cede_faults = [LeaseLost("segment 1", 1)]
    async with given_back(rig) as task:
        await rig.until(lambda: task.done())

    assert (rig.leases.cede_attempts, rig.handler.names()[-1]) == (1, "stopped")


@in_virtual_time
async def test_containers_that_never_stop_hold_their_former_owner_up_until_after_their_last_deadline() -> None:
    rig = Rig()
    rig.handler.promise, rig.handler.stop_seconds = 31.0, 1e6
    async with given_back(rig) as task:
        await rig.until(lambda: task.done())

        assert now() == pytest.approx(rig.handler.at("promised") + 31.0 + 5.0, abs=1.0)
