"""One firing, from its claim until it is done with: begin on time, see the container through, try again what failed."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from prometheus_client import Counter, Histogram

from libs.core.aio.backoff import Backoff
from libs.core.aio.retrying import retry_forever
from libs.core.aio.turnstile import Turnstile
from libs.core.aio.wake import Wake
from libs.core.errors import Retryable, UserError
from libs.core.observability.log import bound_context, get_logger
from libs.core.observability.tracing import Attributes, current, span
from libs.core.room import Need
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.code.definition import ExecutableBuilder
from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, ManagedContainer
from libs.docker_runner.engine.room import RoomRequest, Shortage
from libs.docker_runner.engine.room_view import WAITING_LOOK_SECONDS, EngineRoom
from libs.docker_runner.errors import NoRoom
from libs.docker_runner.executable import Executable, new_run_id
from services.bot_scheduler.decide import Dropped
from services.bot_scheduler.ending import NOT_STARTED, REJECTED, Ending, StopReason, message_of, next_attempt, utc
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
_UNPROVEN_SECONDS = 0.2
# Recorded while its time has not come yet, a run is not late for that.
_RECORDED_AHEAD_SECONDS = 2.0
_ELSEWHERE_SECONDS = 1.0
_WRITES_AT_ONCE = 8
# A start costs a tenth of a millisecond before it waits for anything. With fewer at once the last ones begin late.
_STARTS_A_ROUND = 250
_LOOK_SECONDS = 30.0
# How often a document says anew what its firing waits for.
_TELL_SECONDS = 10.0
_JUST_AFTER_SECONDS = 0.01

T = TypeVar("T")


class Runner(Protocol):
    """What a run needs of the docker runner."""

    async def start(self, executable: Executable) -> ManagedContainer:
        """The running container of *executable*."""

    async def stop(self, container: ManagedContainer, grace_seconds: float = 30.0) -> Ended:
        """End it."""

    async def exit_info(self, container: ManagedContainer) -> Ended | None:
        """Return how it ended; None while it runs."""

    async def remove(self, container: ManagedContainer) -> Ended:
        """Take it away, and say why it ended."""

    async def look(self, container: ManagedContainer) -> ManagedContainer | None:
        """As it is now; None when it is gone."""


@dataclass(frozen=True)
class RunKit:
    """What the runs of one owned segment share.

    Attributes:
        containers: the segment's containers as they are now.
        desk: where runs queue for their writes. A thousand of them at once would take every connection to MongoDB,
            and with them those on which the lease is renewed.
        turnstile: where runs queue whose time has come.
    """

    owned: OwnedSegment
    runner: Runner
    containers: Callable[[], Awaitable[list[ManagedContainer]]]
    claims: ScheduleClaims
    records: RunRecords
    executables: ExecutableBuilder
    room: EngineRoom
    stop_grace_seconds: float = 30.0
    clock: Callable[[], float] = time.time
    desk: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_WRITES_AT_ONCE))
    turnstile: Turnstile = field(default_factory=lambda: Turnstile(_STARTS_A_ROUND))

    async def written(self, write: Callable[[], Awaitable[T]]) -> T:
        """Do *write* until it has worked, with few others at the same time."""

        async def in_turn() -> T:
            async with self.desk:
                return await write()

        return await retry_forever(in_turn)


class ScheduledRun:
    """Carries one firing out. Cancelled, it leaves the container and the document as they are, for the next owner.

    Args:
        adopted: the container of this attempt, when an earlier owner started it.
    """

    def __init__(
        self, state: ScheduleState, firing: Firing, kit: RunKit, adopted: ManagedContainer | None = None
    ) -> None:
        self._state = state
        self._kit = kit
        self._adopted = adopted
        self._policy = state.definition.policy if state.definition is not None else Policy()
        self._room = _room_of(state, kit.executables)
        self._shortage: Shortage | None = None
        self._told_at = -math.inf
        self.missed = False
        """Whether it was given up since it would have come too late."""
        self._late = ""
        self._stop: StopReason | None = None
        self._wake = Wake()
        self.firing = firing
        self.container: ManagedContainer | None = adopted

    @property
    def need(self) -> Need:
        """What its container may use."""
        return self._room.need if self._room is not None else Need()

    @property
    def waits(self) -> bool:
        """Whether it would run now if the engine had room for it."""
        return self._shortage is not None

    def look(self) -> None:
        """Something happened to the container."""
        self._wake.set()

    def update(self, state: ScheduleState) -> None:
        """The schedule's document has changed; an attempt that is begun later follows it."""
        self._state = state
        self._policy = state.definition.policy if state.definition is not None else self._policy
        if not state.runnable and self.container is None and self.firing.cause is not Cause.MANUAL:
            self.stop(StopReason.WITHDRAWN)

    def stop(self, reason: StopReason) -> None:
        """End the run, or do not begin it. The first reason stays."""
        if self._stop is None:
            self._stop = reason
            self._wake.set()

    async def carry_out(self) -> None:
        """Return when the firing is done with, all attempts included."""
        about: Attributes = {
            "runtime.id": self._state.id,
            "runtime.segment": self._kit.owned.segment_id,
            "runtime.cause": str(self.firing.cause),
        }
        # A trace of its own for each firing: in the event's, a schedule would fill one trace for years.
        firing = span(
            "fire schedule", parent={}, links=[self._state.entity.trace, self._kit.owned.trace], attributes=about
        )
        with bound_context(schedule=self._state.id), firing:
            while True:
                run: Attributes = {"runtime.run_id": self.firing.run_id, "runtime.attempt": self.firing.attempt}
                with bound_context(run=self.firing.run_id), span("run schedule", attributes=run):
                    following = await self._one_attempt()
                if following is None:
                    return
                self.firing = following

    async def _one_attempt(self) -> Firing | None:
        kit, firing = self._kit, self.firing
        ending = await self._attempt(firing)
        RUNS.labels(ending.reason).inc()
        current().set(outcome=str(ending.reason))
        following = next_attempt(firing, ending, self._policy, kit.clock(), new_run_id())
        following = kit.claims.with_owner(following) if following is not None else None
        level = log.info if ending.succeeded else log.warning
        level("run ended", reason=ending.reason, message=ending.message, attempt=firing.attempt, again=bool(following))
        await kit.written(lambda: kit.records.ended(self._state, firing, ending))
        there = await kit.written(lambda: kit.claims.close(self._state.id, firing, ending, following))
        if (container := self.container) is not None:
            # Only now: should this worker die before, the next one still finds out how the run ended.
            await kit.records.output_read(container)
            await retry_forever(lambda: kit.runner.remove(container))
        self.container = self._adopted = None
        return following if there else None

    async def _attempt(self, firing: Firing) -> Ending:
        container = self._adopted
        if container is not None:
            self._kit.records.follow(container)
            await self._kit.written(lambda: self._kit.records.adopted(firing, container))
            return await self._see_through(container)
        try:
            executable = self._kit.executables.build(self._state.entity, firing.run_id)
        except UserError as error:
            return Ending(REJECTED, self._now(), str(error))
        started = await self._start(executable, firing)
        if isinstance(started, Ending):
            return started
        self.container = started
        self._kit.records.follow(started)
        # Before the container can be removed: without it, a new owner who does not find it would start another.
        await self._kit.written(lambda: self._kit.claims.started(self._state.id, firing))
        await self._kit.written(lambda: self._kit.records.started(firing, started))
        return await self._see_through(started)

    # --- beginning

    async def _start(self, executable: Executable, firing: Firing) -> ManagedContainer | Ending:
        """Start it when its time has come, and again when that fails for a reason that may pass."""
        kit = self._kit
        backoff = Backoff(initial_seconds=0.5, cap_seconds=30.0)
        await self._until(firing.begins_at - _RECORDED_AHEAD_SECONDS)
        recorded = kit.room.shortage(executable.room) is None and await self._recorded(firing, executable)
        await self._until(firing.begins_at)
        await kit.turnstile.passed()
        if firing.cause is Cause.SCHEDULE and firing.attempt == 1:
            LATENESS_SECONDS.observe(max(0.0, kit.clock() - firing.begins_at))
        tried_at, refusal = kit.clock(), None
        give_up_at = max(kit.clock(), firing.begins_at) + START_PATIENCE_SECONDS
        while self._stop is None:
            if not kit.owned.proven():
                # Frozen or cut off: another owner may be deciding about this firing by now.
                await self._wake.wait_at_most(_UNPROVEN_SECONDS)
                continue
            shortage = refusal or kit.room.shortage(executable.room)
            refusal = None
            if shortage is not None:
                if (missed := await self._wait_for_room(executable.room, firing, shortage, tried_at)) is not None:
                    return missed
                give_up_at = kit.clock() + START_PATIENCE_SECONDS
                continue
            if not recorded:
                recorded = await self._recorded(firing, executable)
                continue
            try:
                if self._shortage is not None and not await kit.claims.begins(self._state.id, firing):
                    await self._wake.wait_at_most(
                        WAITING_LOOK_SECONDS
                    )  # it is deleted, and this is about to be stopped
                    continue
                with kit.room.expecting(executable.room):
                    container = await kit.runner.start(executable)
                if container.run_id == firing.run_id:
                    self._has_room(firing)
                    return container
                log.warning("an earlier run is in the way and is ended", container=container.name)
                ended = await kit.runner.stop(container, kit.stop_grace_seconds)
                await kit.records.stray_ended(ended, deleted=False)
                await kit.runner.remove(container)
            except UserError as error:
                return Ending(REJECTED, self._now(), str(error))
            except NoRoom as error:
                refusal = error.shortage
            except Retryable as error:
                log.warning("run not started", reason=str(error), attempt=firing.attempt)
                if kit.clock() > give_up_at:
                    return Ending(NOT_STARTED, self._now(), str(error))
                await self._wake.wait_at_most(backoff.next_seconds())
                if (found := await self._find(firing)) is not None:
                    return found
        return Ending(self._stop, self._now(), "it was not begun any more", stopped_on_purpose=True)

    async def _recorded(self, firing: Firing, executable: Executable) -> bool:
        """Record that the run begins; False, a little later, while a run in another segment may still be alive.

        Before its container is there: a schedule that is deleted and created again while a start is slow comes to
        another segment, whose owner looks for open records.
        """
        kit = self._kit
        if self._stop is not None:
            return False
        alive_at = await retry_forever(lambda: kit.records.begin(firing, executable))
        if alive_at is None:
            return True
        log.info("run waits: an earlier run is being stopped elsewhere", worker_of_earlier_run=alive_at)
        if await kit.written(lambda: kit.claims.has(self._state.id, firing)):
            await self._wake.wait_at_most(_ELSEWHERE_SECONDS)
        else:
            # This one is the earlier run, of a schedule that is gone: the other one waits for its end.
            self.stop(StopReason.DELETED)
        return False

    async def _wait_for_room(
        self, request: RoomRequest, firing: Firing, shortage: Shortage, tried_at: float
    ) -> Ending | None:
        """Return when there may be room; or the ending of a firing that is too late by its schedule's misfire rules."""
        kit, now = self._kit, self._kit.clock()
        due = firing.begins_at if firing.cause is Cause.SCHEDULE else tried_at
        too_late_at = due + self._policy.misfire_grace_seconds
        if firing.cause is Cause.MANUAL or self._policy.misfire is not Misfire.SKIP:
            too_late_at = math.inf
        if now > too_late_at:
            self.missed = True
            message = f"no room within config.misfireGrace, {self._policy.misfire_grace_seconds:g} s: {shortage}"
            return Ending(Dropped.MISFIRE, self._now(), message)
        if now - self._told_at >= _TELL_SECONDS:
            log.info("run waits for room", shortage=str(shortage))
            await kit.written(lambda: kit.claims.waits(self._state.id, firing, f"waiting: {shortage}", shortage.need))
            self._told_at = now
        self._shortage = shortage
        with kit.room.waiting_for(request, self._wake):
            await self._wake.wait_at_most(min(WAITING_LOOK_SECONDS, too_late_at - now + _JUST_AFTER_SECONDS))
        return None

    def _has_room(self, firing: Firing) -> None:
        if self._shortage is not None:
            seconds = self._kit.clock() - firing.begins_at
            self._late = f"it began {seconds:.1f} s late, since it waited for room: it {self._shortage}"
            self._shortage = None

    async def _until(self, moment: float) -> None:
        """Wait for *moment*, or for being stopped. A timer that sets the flag is far cheaper than a timeout, and at
        the moment when a thousand runs begin that is what makes the last of them late."""
        loop = asyncio.get_running_loop()
        while (left := moment - self._kit.clock()) > 0 and self._stop is None:
            timer = loop.call_later(min(left, _LOOK_SECONDS), self._wake.set)
            try:
                await self._wake.wait_at_most(None)
            finally:
                timer.cancel()

    async def _find(self, firing: Firing) -> ManagedContainer | None:
        """The container of this attempt: a start whose answer was lost has made it all the same."""
        try:
            containers = await self._kit.containers()
        except Retryable:
            return None
        found = next((c for c in containers if c.run_id == firing.run_id), None)
        return found if found is not None and found.state is not ContainerState.CREATED else None

    # --- seeing it through

    async def _see_through(self, container: ManagedContainer) -> Ending:
        """Wait for the container's end, or bring it about, and take its output."""
        kit, stopped, message = self._kit, "", ""
        deadline = self._deadline(container)
        while True:
            if self._stop is not None and not stopped:
                stopped = self._stop
                await self._end(container)
            elif deadline is not None and kit.clock() >= deadline and not stopped:
                stopped = EndReason.TIMEOUT
                message = f"it took longer than config.timeout, {self._policy.timeout_seconds:g} s"
                await self._end(container)
            current = await retry_forever(lambda: kit.runner.look(container))
            if current is None or current.state is ContainerState.EXITED:
                ended = await retry_forever(lambda: kit.runner.exit_info(container))
                if ended is not None:
                    break
            left = _LOOK_SECONDS if deadline is None else deadline - kit.clock()
            await self._wake.wait_at_most(max(0.0, min(_LOOK_SECONDS, left)))
        reason = stopped or str(ended.reason)
        return Ending(
            reason,
            ended.finished_at or self._now(),
            message or message_of(ended) or self._late,
            ended,
            stopped_on_purpose=self._stop is not None and stopped == self._stop,
        )

    async def _end(self, container: ManagedContainer) -> None:
        # The kill switch is for the moment when the code itself cannot be trusted to stop.
        grace = 0.0 if self._stop is StopReason.KILLED else self._kit.stop_grace_seconds
        await retry_forever(lambda: self._kit.runner.stop(container, grace))

    def _deadline(self, container: ManagedContainer) -> float | None:
        if self._policy.timeout_seconds is None:
            return None
        begun = container.started_at.timestamp() if container.started_at is not None else self._kit.clock()
        return begun + self._policy.timeout_seconds

    def _now(self) -> datetime:
        return utc(self._kit.clock())


def _room_of(state: ScheduleState, executables: ExecutableBuilder) -> RoomRequest | None:
    try:
        return executables.room(state.entity)
    except UserError:
        return None  # it is rejected as soon as it is to begin
