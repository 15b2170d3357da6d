"""One attempt of a firing: start it on time, watch the container, and record its end."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from prometheus_client import Counter, Histogram

from libs.core.aio.backoff import Backoff
from libs.core.aio.retrying import retry_forever
from libs.core.aio.wake import Wake
from libs.core.errors import Retryable, UserError
from libs.core.observability.log import get_logger
from libs.core.observability.tracing import current
from libs.core.process.isolation import isolated
from libs.core.room import Need
from libs.core.store.owner_quotas import LOOK_SECONDS, OwnerQuotas, Place
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.code.definition import ExecutableBuilder
from libs.docker_runner.containers.container import Ended, EndReason, ManagedContainer
from libs.docker_runner.engine.room import RoomRequest, Shortage
from libs.docker_runner.engine.room_view import WAITING_CHECK_SECONDS
from libs.docker_runner.errors import NoRoom
from libs.docker_runner.executable import Executable, new_run_id
from libs.docker_runner.runs.attempt import Attempt, AttemptResult, RunKit
from libs.docker_runner.runs.stop_orders import StopOrder
from services.bot_scheduler.decide import Dropped
from services.bot_scheduler.ending import REJECTED, StopReason, message_of, next_attempt, result_of, utc
from services.bot_scheduler.policy import Misfire, Policy
from services.bot_scheduler.records import RunRecords
from services.bot_scheduler.schedule_claims import ScheduleClaims
from services.bot_scheduler.state import Cause, Firing, ScheduleState

log = get_logger(__name__)

LATENESS_SECONDS = Histogram(
    "runtime_schedule_lateness_seconds",
    "How long after its due time a firing's container was asked for.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 60),
)
RUNS = Counter("runtime_schedule_runs_total", "Attempts of schedules' runs by how they ended.", ["reason"])

START_PATIENCE_SECONDS = 300.0
# Recorded in advance, a run is not late because of its record.
_RECORDED_AHEAD_SECONDS = 2.0
_ELSEWHERE_SECONDS = 1.0
_WRITES_AT_ONCE = 8
_LONGEST_TIMER_SECONDS = 30.0
# Interval of updating the waiting text in a document.
_REPORT_SECONDS = 10.0
_JUST_AFTER_SECONDS = 0.01

T = TypeVar("T")


Write = Callable[[Callable[[], Awaitable[bool | None]]], Awaitable[bool | None]]
"""Performs a write, once or until it succeeds."""


async def once(write: Callable[[], Awaitable[T]]) -> T:
    """Perform *write*; a failure is raised."""
    return await write()


@dataclass(frozen=True, kw_only=True)
class ScheduleKit(RunKit):
    """The shared parts of the runs of one owned segment.

    Attributes:
        quotas: of the owners of schedules.
        desk: limits simultaneous writes. A thousand would take every connection to MongoDB, and all other operations
            of this worker would wait.
    """

    owned: OwnedSegment
    claims: ScheduleClaims
    records: RunRecords
    executables: ExecutableBuilder
    quotas: OwnerQuotas
    desk: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_WRITES_AT_ONCE))

    async def written(self, write: Callable[[], Awaitable[T]]) -> T:
        """Perform *write* until it succeeds, with few others at the same time."""

        async def in_turn() -> T:
            async with self.desk:
                return await write()

        return await retry_forever(in_turn)

    async def close(
        self, state: ScheduleState, policy: Policy, firing: Firing, result: AttemptResult, write: Write
    ) -> Firing | None:
        """Record the end of an attempt, and write the attempt that follows into the document, by *write*.

        Returns:
            The next attempt; None when there is none, or the firing no longer exists.
        """
        following = next_attempt(firing, result, policy, self.clock(), new_run_id())
        following = self.claims.with_owner(following) if following is not None else None
        await write(lambda: self.records.end(state, firing, result))
        there = await write(lambda: self.claims.close(state.id, firing, result, following))
        return following if there else None


@dataclass(frozen=True)
class Lack:
    """What an attempt waits for, as a text, and the *need* of it; None: a place within the quota of its owner."""

    text: str
    need: Need | None = None

    @property
    def late(self) -> str:
        """What a run that waited for it waited for."""
        return f"after waiting for room: it {self.text}" if self.need is not None else f"after waiting: {self.text}"


class Run(Protocol):
    """The run of an attempt, as its schedule's document requests now."""

    state: ScheduleState
    policy: Policy
    stop_reason: StopReason | None
    missed: bool

    @property
    def need(self) -> Need:
        """The limits of its container."""

    def stop(self, reason: StopReason) -> None:
        """Stop the run, or do not start it."""


class ScheduledAttempt:
    """One attempt of *run*: the :class:`AttemptPolicy` of schedules."""

    def __init__(
        self,
        run: Run,
        firing: Firing,
        kit: ScheduleKit,
        adopted: ManagedContainer | None = None,
        *,
        may_be_started: bool = False,
    ) -> None:
        self.firing = firing
        self._run = run
        self._kit = kit
        self._wake = Wake()
        self._was_due = False
        self._recorded = False
        self._admitted = False
        self.lack: Lack | None = None
        """What it waits for since its time has come; None: nothing."""
        self._due_at = firing.begins_at
        self._reported_at = -math.inf
        self._late = ""
        self._attempt: Attempt[Firing | None] = Attempt(
            run.state.id,
            firing.run_id,
            kit=kit,
            policy=self,
            container_ended=lambda ended: kit.records.stray_ended(ended, deleted=False),
            backoff=Backoff(initial_seconds=0.5, cap_seconds=30.0),
            wake=self._wake,
            adopted=adopted,
            may_be_started=may_be_started,
        )

    @property
    def container(self) -> ManagedContainer | None:
        """Its container."""
        return self._attempt.container

    def changed(self) -> None:
        """Note a change of the container, or a request to stop."""
        self._attempt.changed()

    async def carry_out(self) -> Firing | None:
        """Return the next attempt; None when the firing is completed."""
        return await self._attempt.carry_out()

    # --- the policy

    def stop_order(self) -> StopOrder | None:
        """The first reason for which the run was stopped."""
        reason = self._run.stop_reason
        if reason is None:
            return None
        # The kill switch is for code that cannot be trusted to stop.
        if reason is StopReason.KILLED:
            return StopOrder(reason, grace_seconds=0.0, interrupts=True)
        return StopOrder(reason, self._kit.stop_grace_seconds)

    def build(self) -> Executable:
        """Return the executable of the document."""
        return self._kit.executables.build(self._run.state.entity, self.firing.run_id)

    async def ready(self, executable: Executable, refusal: NoRoom | None) -> bool | AttemptResult:
        """Wait for the firing's time, for room and for the quota; record the start of the run."""
        kit = self._kit
        if not self._was_due:
            await self._until_due(executable)
            self._was_due = True
            return False
        shortage = refusal.shortage if refusal is not None else kit.engine.room.shortage(executable.room)
        if shortage is not None:
            await self._give_place_up()
            return await self._wait_for_room(executable.room, shortage) or False
        if not self._admitted:
            if (reason := await kit.written(lambda: kit.quotas.admit(executable))) != "":
                return await self._wait_for(Lack(reason), LOOK_SECONDS) or False
            self._admitted = True
        if not self._recorded:
            self._recorded = await self._record(executable)
            return False
        if self.lack is not None and not await kit.claims.begins(self._run.state.id, self.firing):
            await self._wake.wait_at_most(WAITING_CHECK_SECONDS)  # it is deleted, and this is about to be stopped
            return False
        return True

    def start_patience_seconds(self, error: Retryable) -> float:
        """The same for all errors."""
        return START_PATIENCE_SECONDS

    def rejected(self, error: UserError) -> AttemptResult:
        """With what its owner must mend."""
        return AttemptResult(REJECTED, str(error), at=self._now())

    async def see_through(self, container: ManagedContainer) -> AttemptResult:
        """Wait for the container's end, or stop it, and read its output."""
        kit, run, firing = self._kit, self._run, self.firing
        self._waits_no_more()
        kit.records.follow(container)
        if not self._recorded:  # an earlier owner has
            await kit.written(lambda: kit.records.adopt(firing, container))
            await kit.written(lambda: kit.quotas.count(self._place, firing.run_id))
        else:
            # Before the container can be removed: without it, a new owner who does not find it would start another.
            await kit.written(lambda: kit.claims.started(run.state.id, firing))
            await kit.written(lambda: kit.records.started(firing, container))
        seconds = run.policy.timeout_seconds
        message = f"it took longer than config.timeout, {seconds:g} s" if seconds is not None else ""
        late = StopOrder(EndReason.TIMEOUT, kit.stop_grace_seconds, again=True, message=message)
        order: StopOrder | None = None
        ended: Ended | None = None
        while ended is None:
            order = await self._attempt.watch(container, seconds, late) or order
            ended = await retry_forever(lambda: kit.engine.exit_info(container))
        at = ended.finished_at or self._now()
        if order is None:
            return result_of(str(ended.reason), at, message_of(ended) or self._late, ended)
        message = order.message or message_of(ended) or self._late
        return AttemptResult(order.reason, message, order.again, at, ended)

    async def record(self, result: AttemptResult) -> Firing | None:
        """Record the end and the next attempt, if any; then read the rest of the output."""
        kit, run, firing = self._kit, self._run, self.firing
        RUNS.labels(result.reason).inc()
        current().set(outcome=str(result.reason))
        following = await kit.close(run.state, run.policy, firing, result, kit.written)
        await self._give_place_up()
        level = log.info if result.succeeded else log.warning
        level("run ended", reason=result.reason, message=result.message, attempt=firing.attempt, again=bool(following))
        if self.container is not None:
            await kit.records.output_read(self.container)
        return following

    # --- before the start

    async def _until_due(self, executable: Executable) -> None:
        """Return at its time, after recording the start if nothing prevents that."""
        kit, firing = self._kit, self.firing
        await self._until(firing.begins_at - _RECORDED_AHEAD_SECONDS)
        # What may be refused is not recorded before it is admitted.
        may_begin = not kit.quotas and kit.engine.room.shortage(executable.room) is None
        self._recorded = may_begin and await self._record(executable)
        await self._until(firing.begins_at)
        if firing.cause is Cause.SCHEDULE and firing.attempt == 1:
            LATENESS_SECONDS.observe(max(0.0, kit.clock() - firing.begins_at))
        if firing.cause is not Cause.SCHEDULE:
            self._due_at = kit.clock()

    async def _record(self, executable: Executable) -> bool:
        """Record that the run begins; False, a little later, while a run in another segment may still be alive.

        Before its container is there: a schedule that is deleted and created again while a start is slow comes to
        another segment, whose owner looks for open records.
        """
        kit, firing = self._kit, self.firing
        if self._run.stop_reason is not None:
            return False
        alive_at = await retry_forever(lambda: kit.records.begin(firing, executable))
        if alive_at is None:
            return True
        log.info("run waits: an earlier run is being stopped elsewhere", worker_of_earlier_run=alive_at)
        if await kit.written(lambda: kit.claims.has(self._run.state.id, firing)):
            await self._wake.wait_at_most(_ELSEWHERE_SECONDS)
        else:
            # This one is the earlier run, of a schedule that is gone: the other one waits for its end.
            self._run.stop(StopReason.DELETED)
        return False

    async def _wait_for_room(self, request: RoomRequest, shortage: Shortage) -> AttemptResult | None:
        with self._kit.engine.room.waiting_for(request, self._wake):
            return await self._wait_for(Lack(str(shortage), shortage.need), WAITING_CHECK_SECONDS)

    async def _wait_for(self, lack: Lack, seconds: float) -> AttemptResult | None:
        """Return when there may be what it lacks; or the ending of a firing that is too late by its misfire rules."""
        kit, run, firing, now = self._kit, self._run, self.firing, self._kit.clock()
        too_late_at = self._due_at + run.policy.misfire_grace_seconds
        if firing.cause is Cause.MANUAL or run.policy.misfire is not Misfire.SKIP:
            too_late_at = math.inf
        if now > too_late_at:
            run.missed = True
            missed = "no room" if lack.need is not None else "not permitted"
            message = f"{missed} within config.misfireGrace, {run.policy.misfire_grace_seconds:g} s: {lack.text}"
            return AttemptResult(Dropped.MISFIRE, message, at=self._now())
        waited_for_the_same = self.lack is not None and (self.lack.need is None) == (lack.need is None)
        if not waited_for_the_same or now - self._reported_at >= _REPORT_SECONDS:
            log.info("run waits", reason=lack.text)
            await kit.written(lambda: kit.claims.waits(run.state.id, firing, f"waiting: {lack.text}", lack.need))
            self._reported_at = now
        self.lack = lack
        await self._wake.wait_at_most(min(seconds, too_late_at - now + _JUST_AFTER_SECONDS))
        return None

    def _waits_no_more(self) -> None:
        if self.lack is not None:
            seconds = self._kit.clock() - self.firing.begins_at
            self._late = f"started {seconds:.1f} s late {self.lack.late}"
            self.lack = None

    @property
    def _place(self) -> Place:
        """Its place within the quota of its owner."""
        entity = self._run.state.entity
        owner = entity.owner(self._kit.executables.settings.owner_field)
        return Place(entity.id, owner, self.firing.run_id, self._run.need)

    async def _give_place_up(self) -> None:
        """Give its place up, if it has one. A failure is repaired by the next claim that lacks a place."""
        self._admitted = False
        with isolated("give up place", passing=()):
            await self._kit.quotas.give_up(self._place)

    async def _until(self, moment: float) -> None:
        """Wait for *moment*, or for being stopped. A timer that sets the flag is far cheaper than a timeout, and at
        the moment when a thousand runs begin that is what makes the last of them late."""
        loop = asyncio.get_running_loop()
        while (left := moment - self._kit.clock()) > 0 and self._run.stop_reason is None:
            timer = loop.call_later(min(left, _LONGEST_TIMER_SECONDS), self._wake.set)
            try:
                await self._wake.wait_at_most(None)
            finally:
                timer.cancel()

    def _now(self) -> datetime:
        return utc(self._kit.clock())
