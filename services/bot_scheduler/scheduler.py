"""Fire the schedules of one owned segment on time: claim in MongoDB, then run.

Due times are kept in memory; the documents are read after a notification of a change, and periodically. The memory
may be outdated: a claim only counts if MongoDB finds the document unchanged.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import prometheus_client

from libs.core.aio.backoff import Setbacks
from libs.core.aio.retrying import retry_forever
from libs.core.aio.wake import Wake
from libs.core.errors import Permanent, Retryable
from libs.core.events.wakeups import WakeUps
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe
from libs.core.placement import key_of
from libs.core.process.isolation import isolated, repeat, unexpected
from libs.core.room import Demand
from libs.core.store.entities import Entity
from services.bot_scheduler.attempt import ScheduleKit
from services.bot_scheduler.decide import Claim, Dropped, Wait, decide, replaces
from services.bot_scheduler.dropping import DroppedFirings
from services.bot_scheduler.ending import StopReason, utc
from services.bot_scheduler.moving import ScheduleMover
from services.bot_scheduler.records import RunRecords
from services.bot_scheduler.rest import is_idle
from services.bot_scheduler.run import ScheduledRun
from services.bot_scheduler.schedule_claims import Entry, ScheduleClaims
from services.bot_scheduler.state import FIRING, LAST_RUN, Condition, ScheduleState
from services.bot_scheduler.strays import StrayContainers
from services.bot_scheduler.takeover import Takeover
from services.bot_scheduler.timer_queue import DecisionTimes

log = get_logger(__name__)

DROPPED = prometheus_client.Counter(
    "runtime_schedule_firings_dropped_total", "Firings of schedules without a run, by reason.", ["reason"]
)
for _reason in Dropped:
    DROPPED.labels(_reason)  # exported as 0, so that the first one shows as an increase

_PAGE = 50
_LONGEST_SLEEP_SECONDS = 30.0
# Interval of checking schedules that still have a run elsewhere.
_ELSEWHERE_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 5.0
# Of a schedule whose claim was not written.
_FIRST_SETBACK_SECONDS = 0.05
_LONGEST_SETBACK_SECONDS = 30.0
# In one request, whose runs then begin together; more would hold up the event loop.
_MOST_CLAIMS = 100


class SegmentScheduler:
    """Runs one segment's schedules until it is cancelled."""

    def __init__(
        self,
        kit: ScheduleKit,
        *,
        takeover: Takeover,
        wake_ups: WakeUps,
        scan_interval_seconds: float,
    ) -> None:
        self._wake_ups = wake_ups
        self._placement: str | None = None
        self._owned = kit.owned
        self._kit = kit
        self._claims: ScheduleClaims = kit.claims
        self._records: RunRecords = kit.records
        self._mover = ScheduleMover(kit.owned, kit.claims, kit.records, wake_ups)
        self._takeover = takeover
        self._scan_interval = scan_interval_seconds
        self._clock = kit.clock
        self._states: dict[str, ScheduleState] = {}
        self._runs: dict[str, ScheduledRun] = {}
        self._dropped = DroppedFirings(kit, self._states)
        self._times = DecisionTimes()
        self._pulse = Wake()
        self._claiming: set[str] = set()
        self._elsewhere: set[str] = set()
        self._setbacks = Setbacks(_FIRST_SETBACK_SECONDS, _LONGEST_SETBACK_SECONDS)
        self._strays = StrayContainers(kit)
        self._fenced = False
        self._earlier_closed = False
        self._taken_over = False

    @property
    def running(self) -> int:
        """The number of runs with a container."""
        return sum(run.container is not None for run in self._runs.values())

    @property
    def known(self) -> int:
        """The number of schedules that have been read."""
        return len(self._states)

    def states(self) -> Mapping[str, int]:
        """Return the number of schedules in each state."""
        found = Counter(self._condition_of(state) for state in self._states.values())
        return {str(condition): found[condition] for condition in Condition}

    def _condition_of(self, state: ScheduleState) -> Condition:
        if state.id in self._runs:
            return Condition.RUNNING
        if state.held:
            return Condition.KILLED
        if state.paused:
            return Condition.PAUSED
        if not state.entity.should_run:
            return Condition.DISABLED
        return Condition.WAITING if state.definition is not None else Condition.REJECTED

    def demand(self) -> Demand:
        """Return what the active firings need of the engine; fast."""
        runs = [run for run in self._runs.values() if not run.over_quota]
        return Demand.of((run.need for run in runs), (run.need for run in runs if run.waits))

    async def run(self) -> None:
        """Fire, forever. While the database is down, active runs continue."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._fire_for_ever(tasks), name="fire schedules")
            await repeat(
                "read schedules",
                lambda: self.read_once(tasks),
                self._scan_interval,
                wake=self._owned.wake,
                longest_retry_seconds=_LONGEST_RETRY_SECONDS,
                operation="schedules",
            )

    def container_changed(self, schedule_id: str) -> None:
        """Note a change of this schedule's container; "" for any of them."""
        for run_of, run in self._runs.items():
            if schedule_id in (run_of, ""):
                run.changed()

    # --- reading

    async def read_once(self, tasks: asyncio.TaskGroup) -> float:
        """Read the segment's documents, begin in *tasks* what an earlier owner has left undone, and return the pause.

        Raises:
            Retryable: not all of them could be read.
        """
        await self._fence()
        if self._placement is None:
            self._placement = await self._claims.placement(self._owned.segment_id)
        await self._recheck_elsewhere()
        seen: set[str] = set()
        last = ""
        while True:
            page = await self._claims.segment(self._owned.segment_id, last, _PAGE)
            await self._check_elsewhere(page)
            for entity in page:
                seen.add(entity.id)
                if entity.id not in self._claiming and not self._is_known(entity):
                    with isolated("read schedule"):
                        await self._take(ScheduleState.of(entity))
            if len(page) < _PAGE:
                break
            last = page[-1].id
        for gone in self._states.keys() - seen:
            self._forget(gone)
        for schedule_id in self._states:
            self._dropped.record(schedule_id, tasks)
        await self._take_over(tasks)
        await self._move_misplaced()
        await self._move_ordered()
        self._pulse.set()
        return min(self._scan_interval, _ELSEWHERE_SECONDS) if self._elsewhere else self._scan_interval

    async def _fence(self) -> None:
        """Fence claims of earlier owners, before the first read that they could invalidate."""
        if self._fenced:
            return
        try:
            await self._claims.fence(self._owned.segment_id)
        except Permanent as error:
            # One document that cannot be written must not stop the others of the segment.
            unexpected("fence schedules", error, segment=self._owned.segment_id)
        self._fenced = True

    async def _check_elsewhere(self, page: Sequence[Entity]) -> None:
        """See which of the schedules that are new here are busy elsewhere.

        One that is deleted and created again may come to another segment while its old owner still stops its run.
        """
        new = {entity.id for entity in page if entity.id not in self._states and LAST_RUN not in entity.status}
        if new:
            self._elsewhere |= await self._records.alive_elsewhere(new)

    async def _recheck_elsewhere(self) -> None:
        """Continue schedules whose run elsewhere has ended."""
        before = self._elsewhere
        if before:
            self._elsewhere = await self._records.alive_elsewhere(before)
            for schedule_id in before - self._elsewhere:
                self._plan(schedule_id)

    def _is_known(self, entity: Entity) -> bool:
        """Whether the document is unchanged; most are, and processing them again would delay due firings."""
        known = self._states.get(entity.id)
        return known is not None and known.entity.document == entity.document and known.entity.held == entity.held

    async def _move_misplaced(self) -> None:
        """Move schedules of another placement to segments of it; one that runs moves when it has ended.

        None of them begins a run before: see `_plan`.
        """
        for state in list(self._states.values()):
            if not self._is_misplaced(state) or self._is_busy(state) or state.id in self._claiming:
                continue
            with isolated("move schedule"):
                if self._owned.proven() and (segment_id := await self._claims.move(state)) is not None:
                    log.info("schedule moves to a segment of its placement", schedule=state.id, segment=segment_id)
                    self._forget(state.id)
                    await self._wake_ups.entity_moved(segment_id)

    async def _move_ordered(self) -> None:
        """Move schedules as the leading master ordered. One that is active or due soon stays while it is."""
        for state in list(self._states.values()):
            order = state.entity.order_from(self._owned.segment_id, self._clock())
            if order is None or self._is_busy(state) or state.id in self._claiming:
                continue
            if not is_idle(state, self._clock()):
                continue
            # No firing of it is claimed meanwhile.
            self._times.put(state.id, None)
            moved = False
            with isolated("move schedule"):
                moved = await self._mover.moved(state, order)
            if moved:
                self._forget(state.id)
            else:
                self._plan(state.id)

    def _is_misplaced(self, state: ScheduleState) -> bool:
        """Whether its placement is not that of the segment, so that this worker must not run it."""
        return self._placement is not None and key_of(state.entity.config) != self._placement

    async def _take(self, state: ScheduleState) -> None:
        """Process the current document."""
        self._states[state.id] = state
        run = self._runs.get(state.id)
        if run is not None:
            _apply_hold(run, state)
            run.update(state)
        if state.definition is None:
            await self._claims.reject(state, self._clock())
        self._plan(state.id)

    def _forget(self, schedule_id: str) -> None:
        self._states.pop(schedule_id, None)
        self._times.put(schedule_id, None)
        self._setbacks.worked(schedule_id)
        if (run := self._runs.get(schedule_id)) is not None:
            run.stop(StopReason.DELETED)

    def _plan(self, schedule_id: str) -> None:
        """Set the time of the schedule's next decision."""
        state = self._states.get(schedule_id)
        if state is None:
            return
        # Decided by the stored state and not at the write: its writer may have died or lost the response.
        if (run := self._runs.get(schedule_id)) is not None and replaces(state, run.firing):
            run.stop(StopReason.REPLACED)
        if self._is_misplaced(state):
            self._times.put(schedule_id, None)
            return
        now = self._clock()
        decision = decide(state, now, busy=self._is_busy(state))
        wait = decision if isinstance(decision, Wait) else Wait(0.0)
        if wait.until is not None and (left_seconds := self._setbacks.left_seconds(schedule_id)):
            wait = Wait(now + left_seconds if wait.ahead else max(wait.until, now + left_seconds))
        self._times.put(schedule_id, wait.until, ahead=wait.ahead)

    def _is_busy(self, state: ScheduleState) -> bool:
        return state.id in self._runs or state.id in self._elsewhere or state.firing is not None

    # --- firing

    async def _fire_for_ever(self, tasks: asyncio.TaskGroup) -> None:
        async def one_round() -> float:
            if (pause := self._pause()) > 0:
                return pause
            with observe("reconcile", "fire schedules"):
                await self.fire_once(tasks)
            return max(0.0, self._pause())

        await repeat(
            "fire schedules",
            one_round,
            _LONGEST_SLEEP_SECONDS,
            wake=self._pulse,
            longest_retry_seconds=_LONGEST_RETRY_SECONDS,
        )

    def _pause(self) -> float:
        now = self._clock()
        first = self._times.first(now)
        if first is None or not self._owned.proven():
            return 0.2 if first is not None else _LONGEST_SLEEP_SECONDS
        return min(_LONGEST_SLEEP_SECONDS, first - now)

    async def fire_once(self, tasks: asyncio.TaskGroup) -> None:
        """Claim what is due now, and begin its runs in *tasks*.

        Raises:
            Retryable: the outcome of the claims is unknown; they are checked again.
        """
        now = self._clock()
        ahead = self._times.ahead_seconds(now)
        ids = self._times.take(now, ahead, _MOST_CLAIMS)
        entries = [entry for schedule_id in ids if (entry := self._entry(schedule_id, now, ahead)) is not None]
        if not entries:
            return
        self._claiming = {entry.state.id for entry in entries}
        try:
            if await self._written(entries):
                for entry in entries:
                    self._claimed(entry, tasks)
            else:
                await self._sort_out(entries, tasks)
        finally:
            self._claiming = set()

    async def _written(self, entries: Sequence[Entry]) -> bool:
        """Whether all were certainly written."""
        try:
            return await self._claims.write(entries)
        except Retryable as error:
            log.warning("outcome of claims unknown", reason=str(error))
        except Exception as error:  # noqa: BLE001 - one of them is refused; the others are not its victims
            unexpected("claim firings", error)
        return False

    def _entry(self, schedule_id: str, now: float, ahead: float) -> Entry | None:
        state = self._states.get(schedule_id)
        if state is None:
            return None
        try:
            return self._decided(state, now, ahead)
        except Exception as error:  # noqa: BLE001 - of this schedule alone
            unexpected("decide on schedule", error, schedule=schedule_id)
            self._times.put(schedule_id, now + self._setbacks.failed(schedule_id))
            return None

    def _decided(self, state: ScheduleState, now: float, ahead: float) -> Entry | None:
        decision = decide(state, now, busy=self._is_busy(state), ahead_seconds=ahead)
        if isinstance(decision, Claim):
            return self._claims.entry(state, decision, now, detail=self._obstacle(state, decision))
        self._times.put(state.id, decision.until, ahead=decision.ahead)
        return None

    async def _sort_out(self, entries: Sequence[Entry], tasks: asyncio.TaskGroup) -> None:
        """Find out which entries were written after a partial or unconfirmed write, by values unique to this worker."""
        read = await retry_forever(lambda: self._claims.read([entry.state.id for entry in entries]))
        found = {schedule_id: ScheduleState.of(entity) for schedule_id, entity in read.items()}
        for entry in entries:
            state = found.get(entry.state.id)
            if state is None or state.entity.segment_id != self._owned.segment_id:
                self._forget(entry.state.id)  # deleted, and perhaps created again for another owner
            elif _has_written(entry, state):
                self._claimed(entry, tasks)
            else:
                self._setbacks.failed(state.id)
                with isolated("read schedule"):
                    await self._take(state)

    def _claimed(self, entry: Entry, tasks: asyncio.TaskGroup) -> None:
        state = entry.state.after_write(entry.changes)
        self._setbacks.worked(state.id)
        self._states[state.id] = state
        if entry.firing is not None:
            self.begin(ScheduledRun(state, entry.firing, self._kit), state.id, tasks)
        if (dropped := entry.dropped) is not None:
            DROPPED.labels(dropped.reason).inc()
            at = utc(dropped.at).isoformat()
            log.warning("firing dropped", schedule=state.id, reason=dropped.reason, at=at)
            self._dropped.record(state.id, tasks)
        self._plan(state.id)

    def _obstacle(self, state: ScheduleState, claim: Claim) -> str:
        """Return what the run waits for that makes *claim* drop a firing; "" if it runs."""
        run = self._runs.get(state.id)
        if claim.drop is None or claim.drop[1] != Dropped.OVERLAP or run is None or not run.waits_for:
            return ""
        return f"an earlier one is still waiting, {run.waits_for}"

    # --- runs

    def begin(self, run: ScheduledRun, schedule_id: str, tasks: asyncio.TaskGroup) -> None:
        """Carry out *run* in *tasks*; it is the schedule's only one until it is completed."""
        self._runs[schedule_id] = run
        if (state := self._states.get(schedule_id)) is not None:
            _apply_hold(run, state)
        tasks.create_task(self._carry_out(run, schedule_id), name=f"run {schedule_id[:40]!r}")

    async def _carry_out(self, run: ScheduledRun, schedule_id: str) -> None:
        try:
            await run.carry_out()
            if run.missed:
                DROPPED.labels(Dropped.MISFIRE).inc()
        except Exception as error:  # noqa: BLE001 - of this schedule alone; the next reading takes the firing up again
            unexpected("run schedule", error, schedule=schedule_id, run=run.firing.run_id)
            self._taken_over = False
        del self._runs[schedule_id]
        if (state := self._states.get(schedule_id)) is not None:
            self._states[schedule_id] = state.after_write({FIRING: None})
            self._plan(schedule_id)
            self._pulse.set()
            if self._is_misplaced(state):
                self._owned.wake.set()

    async def _take_over(self, tasks: asyncio.TaskGroup) -> None:
        """Take up firings that are claimed and not in hand here: those of an earlier owner of the segment."""
        left = [state for state in self._states.values() if state.firing and state.id not in self._runs]
        if not left and self._taken_over and self._earlier_closed and not self._strays.is_any_left:
            return
        before = {run.firing.run_id for run in self._runs.values()}
        containers = await self._kit.containers()
        for state in left:
            with isolated("take over firing"):
                run = await self._takeover.take(state, containers, self._clock())
                if run is not None:
                    self.begin(run, state.id, tasks)
                else:
                    self._states[state.id] = self._states[state.id].after_write({FIRING: None})
                self._plan(state.id)
        in_hand = before | {run.firing.run_id for run in self._runs.values()}
        in_hand |= {state.firing.run_id for state in self._states.values() if state.firing is not None}
        if not self._earlier_closed:
            with isolated("take stock of runs"):
                await self._records.close_earlier(in_hand | {container.run_id for container in containers})
                self._earlier_closed = True
        self._taken_over = True
        self._strays.end(containers, in_hand, tasks)


def _apply_hold(run: ScheduledRun, state: ScheduleState) -> None:
    if state.held:
        run.stop(StopReason.KILLED)


def _has_written(entry: Entry, state: ScheduleState) -> bool:
    """Whether *state*, which was read afterwards, has what *entry* begins or drops."""
    if entry.firing is not None:
        return state.firing is not None and state.firing.run_id == entry.firing.run_id
    return entry.dropped is not None and entry.dropped in state.dropped
