"""Fires the schedules of one owned segment on time: claim in MongoDB, then run.

Due times are kept in memory and looked at when they come; the documents are read when something is said to have
changed, and now and then in any case. What is in memory may be old: a claim only counts if MongoDB finds the document
as it was read.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import prometheus_client

from libs.core.backoff import Backoff
from libs.core.errors import Retryable
from libs.core.log import get_logger
from libs.core.metrics import observe
from libs.core.retrying import persistently
from libs.core.room import Demand
from libs.core.store.entities import Entity
from libs.core.wake import Wake
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.executable import new_run_id
from services.bot_scheduler.agenda import Agenda
from services.bot_scheduler.books import Books, Entry
from services.bot_scheduler.decide import Claim, Dropped, Wait, decide, replaces
from services.bot_scheduler.ending import Ending, StopReason, utc
from services.bot_scheduler.inheritance import Inheritance
from services.bot_scheduler.records import RunRecords
from services.bot_scheduler.run import RunKit, ScheduledRun
from services.bot_scheduler.state import FIRING, LAST_RUN, Cause, Condition, Firing, ScheduleState

log = get_logger(__name__)

DROPPED = prometheus_client.Counter(
    "runtime_schedule_firings_dropped_total", "Firings of schedules that got no run, by why.", ["reason"]
)
for _reason in Dropped:
    DROPPED.labels(_reason)  # from 0 on, so that the first one shows as an increase

_PAGE = 50
_LONGEST_SLEEP_SECONDS = 30.0
# How often schedules are looked at that still have a run elsewhere.
_ELSEWHERE_SECONDS = 1.0
# A claim takes a round trip and a little for each schedule that is due at the same moment. Made so much earlier, it
# is there when the moment comes.
_AHEAD_SECONDS = 0.05
_AHEAD_SECONDS_EACH = 0.001
_MOST_AHEAD_SECONDS = 2.0
# In one request, whose runs then begin together; more would hold up the event loop.
_MOST_CLAIMS = 100


class SegmentScheduler:
    """Runs one segment's schedules until it is cancelled."""

    def __init__(
        self,
        owned: OwnedSegment,
        *,
        kit: RunKit,
        inheritance: Inheritance,
        scan_interval_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._owned = owned
        self._kit = kit
        self._books: Books = kit.books
        self._records: RunRecords = kit.records
        self._inheritance = inheritance
        self._scan_interval = scan_interval_seconds
        self._clock = clock
        self._states: dict[str, ScheduleState] = {}
        self._runs: dict[str, ScheduledRun] = {}
        self._agenda = Agenda()
        self._pulse = Wake()
        self._claiming: set[str] = set()
        self._elsewhere: set[str] = set()
        self._inherited = False
        self._ahead = (0.0, 0.0)

    @property
    def running(self) -> int:
        """How many runs have a container."""
        return sum(run.container is not None for run in self._runs.values())

    @property
    def known(self) -> int:
        """How many schedules have been read."""
        return len(self._states)

    def states(self) -> Mapping[str, int]:
        """How many schedules are in which state."""
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
        """What the firings in hand need of the engine; quick."""
        runs = self._runs.values()
        return Demand.of((run.need for run in runs), (run.need for run in runs if run.waits))

    async def run(self) -> None:
        """Fire, for ever. A database that is away is waited for; what runs goes on running meanwhile."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_for_ever(tasks), name="read schedules")
            tasks.create_task(self._fire_for_ever(tasks), name="fire schedules")

    def container_changed(self, schedule_id: str) -> None:
        """Something happened to the container of this schedule; "" for any of them."""
        for run_of, run in self._runs.items():
            if schedule_id in (run_of, ""):
                run.look()

    # --- reading

    async def _read_for_ever(self, tasks: asyncio.TaskGroup) -> None:
        backoff = Backoff(initial_seconds=0.2, cap_seconds=5.0)
        while True:
            try:
                with observe("reconcile", "schedules"):
                    await self.read_once(tasks)
                backoff.reset()
                pause = min(self._scan_interval, _ELSEWHERE_SECONDS) if self._elsewhere else self._scan_interval
            except Retryable as error:
                pause = backoff.next_seconds()
                log.warning("schedules cannot be read", reason=str(error), retry_in_seconds=round(pause, 2))
            await self._owned.wake.wait_at_most(pause)

    async def read_once(self, tasks: asyncio.TaskGroup) -> None:
        """Read the segment's documents, and begin in *tasks* what an earlier owner has left undone.

        Raises:
            Retryable: not all of them could be read.
        """
        await self._look_elsewhere_again()
        seen: set[str] = set()
        last = ""
        while True:
            page = await self._books.segment(self._owned.segment_id, last, _PAGE)
            await self._look_elsewhere(page)
            for entity in page:
                seen.add(entity.id)
                if entity.id not in self._claiming and not self._is_known(entity):
                    await self._take(ScheduleState.of(entity))
            if len(page) < _PAGE:
                break
            last = page[-1].id
        for gone in self._states.keys() - seen:
            self._forget(gone)
        await self._inherit(tasks)
        self._pulse.set()

    async def _look_elsewhere(self, page: Sequence[Entity]) -> None:
        """See which of the schedules that are new here are busy elsewhere.

        One that is deleted and created again may come to another segment while its old owner still stops its run.
        """
        new = {entity.id for entity in page if entity.id not in self._states and LAST_RUN not in entity.status}
        if new:
            self._elsewhere |= await self._records.alive_elsewhere(new)

    async def _look_elsewhere_again(self) -> None:
        """Let those go on whose run elsewhere has ended."""
        before = self._elsewhere
        if before:
            self._elsewhere = await self._records.alive_elsewhere(before)
            for schedule_id in before - self._elsewhere:
                self._plan(schedule_id)

    def _is_known(self, entity: Entity) -> bool:
        """Whether the document says what it said; most do, and reading them anew would hold up what is due."""
        known = self._states.get(entity.id)
        return known is not None and known.entity.document == entity.document and known.entity.held == entity.held

    async def _take(self, state: ScheduleState) -> None:
        """What a document says now."""
        self._states[state.id] = state
        run = self._runs.get(state.id)
        if run is not None:
            if state.held:
                run.stop(StopReason.KILLED)
            run.update(state)
        if state.definition is None:
            await self._books.reject(state, self._clock())
        self._plan(state.id)

    def _forget(self, schedule_id: str) -> None:
        self._states.pop(schedule_id, None)
        self._agenda.put(schedule_id, None)
        if (run := self._runs.get(schedule_id)) is not None:
            run.stop(StopReason.DELETED)

    def _plan(self, schedule_id: str) -> None:
        """Look at the schedule again when there will be something to do."""
        state = self._states.get(schedule_id)
        if state is None:
            return
        # By what is written, not when it is: whoever wrote it may have died, or never have known that it was.
        if (run := self._runs.get(schedule_id)) is not None and replaces(state, run.firing):
            run.stop(StopReason.REPLACED)
        decision = decide(state, self._clock(), busy=self._is_busy(state))
        self._agenda.put(schedule_id, decision.until if isinstance(decision, Wait) else 0.0)

    def _is_busy(self, state: ScheduleState) -> bool:
        return state.id in self._runs or state.id in self._elsewhere or state.firing is not None

    # --- firing

    async def _fire_for_ever(self, tasks: asyncio.TaskGroup) -> None:
        backoff = Backoff(initial_seconds=0.2, cap_seconds=5.0)
        while True:
            pause = self._pause()
            if pause > 0:
                await self._pulse.wait_at_most(pause)
                continue
            try:
                with observe("reconcile", "fire schedules"):
                    await self.fire_once(tasks)
                backoff.reset()
            except Retryable as error:
                pause = backoff.next_seconds()
                log.warning("firings cannot be claimed", reason=str(error), retry_in_seconds=round(pause, 2))
                await asyncio.sleep(pause)

    def _pause(self) -> float:
        first = self._agenda.first()
        if first is None or not self._owned.proven():
            return 0.2 if first is not None else _LONGEST_SLEEP_SECONDS
        return min(_LONGEST_SLEEP_SECONDS, first - self._ahead_of(first) - self._clock())

    def _ahead_of(self, first: float) -> float:
        """How long before *first*, the earliest time there is, its claims begin."""
        number = self._agenda.count_until(max(first, self._clock()))
        ahead = min(_MOST_AHEAD_SECONDS, _AHEAD_SECONDS + _AHEAD_SECONDS_EACH * number)
        # With each batch that is claimed fewer are left; the next one follows at once all the same.
        known_first, known = self._ahead
        self._ahead = (first, max(ahead, known) if first == known_first else ahead)
        return self._ahead[1]

    async def fire_once(self, tasks: asyncio.TaskGroup) -> None:
        """Claim what is due now, and begin its runs in *tasks*.

        Raises:
            Retryable: it is not known what became of the claims; they are looked at again.
        """
        now = self._clock()
        first = self._agenda.first()
        ahead = self._ahead_of(first) if first is not None else 0.0
        ids = self._agenda.take_until(now + ahead, _MOST_CLAIMS)
        entries = [entry for schedule_id in ids if (entry := self._entry(schedule_id, now, ahead)) is not None]
        if not entries:
            return
        self._claiming = {entry.state.id for entry in entries}
        try:
            if await self._books.write(entries):
                for entry in entries:
                    self._claimed(entry, tasks)
            else:
                await self._sort_out(entries, tasks)
        except Retryable:
            await self._sort_out(entries, tasks)
        finally:
            self._claiming = set()

    def _entry(self, schedule_id: str, now: float, ahead: float) -> Entry | None:
        state = self._states.get(schedule_id)
        if state is None:
            return None
        busy = self._is_busy(state)
        decision = decide(state, now, busy=busy, ahead_seconds=ahead)
        if isinstance(decision, Claim):
            return self._books.entry(state, decision)
        # Looked at that much ahead: a busy one then comes up when it is due, or when its run ends.
        until = decision.until + ahead if busy and decision.until is not None else decision.until
        self._agenda.put(schedule_id, until)
        return None

    async def _sort_out(self, entries: Sequence[Entry], tasks: asyncio.TaskGroup) -> None:
        """Not all were written, or nobody knows: see which were, by what only we have written."""
        entities = await persistently(lambda: self._books.read([entry.state.id for entry in entries]))
        found = {entity.id: ScheduleState.of(entity) for entity in entities}
        for entry in entries:
            state = found.get(entry.state.id)
            if state is None or state.entity.segment_id != self._owned.segment_id:
                self._forget(entry.state.id)  # deleted, and perhaps created again for another owner
            elif _has_written(entry, state):
                self._claimed(entry, tasks)
            else:
                await self._take(state)

    def _claimed(self, entry: Entry, tasks: asyncio.TaskGroup) -> None:
        state = entry.state.after_write(entry.changes)
        self._states[state.id] = state
        if entry.firing is not None:
            self.begin(ScheduledRun(state, entry.firing, self._kit), state.id, tasks)
        if entry.claim.drop is not None:
            tasks.create_task(self._note_dropped(state, *entry.claim.drop), name="note a firing without a run")
        self._plan(state.id)

    async def _note_dropped(self, state: ScheduleState, at: int, reason: str) -> None:
        message = f"the firing of {utc(at).isoformat()} got no run"
        DROPPED.labels(reason).inc()
        log.warning("firing dropped", schedule=state.id, reason=reason, at=utc(at).isoformat())
        firing = Firing(at, new_run_id(), Cause.SCHEDULE)
        ending = Ending(reason, utc(self._clock()), message)
        await self._kit.written(lambda: self._records.ended(state, firing, ending))

    # --- runs

    def begin(self, run: ScheduledRun, schedule_id: str, tasks: asyncio.TaskGroup) -> None:
        """Carry *run* out in *tasks*; it is the schedule's only one until it is done with."""
        self._runs[schedule_id] = run
        tasks.create_task(self._carry_out(run, schedule_id), name=f"run {schedule_id[:40]!r}")

    async def _carry_out(self, run: ScheduledRun, schedule_id: str) -> None:
        try:
            await run.carry_out()
            if run.missed:
                DROPPED.labels(Dropped.MISFIRE).inc()
        except Exception:
            # One schedule that cannot be run must not take the others down; the next owner, or reading, sorts it out.
            log.exception("run failed", schedule=schedule_id)
        del self._runs[schedule_id]
        if (state := self._states.get(schedule_id)) is not None:
            self._states[schedule_id] = state.after_write({FIRING: None})
            self._plan(schedule_id)
            self._pulse.set()

    async def _inherit(self, tasks: asyncio.TaskGroup) -> None:
        """Take up firings that are claimed and not in hand here: those of an earlier owner of the segment."""
        left = [state for state in self._states.values() if state.firing and state.id not in self._runs]
        if not left and self._inherited:
            return
        before = {run.firing.run_id for run in self._runs.values()}
        containers = await self._kit.containers()
        for state in left:
            run = await self._inheritance.take(state, containers, self._clock())
            if run is not None:
                self.begin(run, state.id, tasks)
            else:
                self._states[state.id] = self._states[state.id].after_write({FIRING: None})
            self._plan(state.id)
        in_hand = before | {run.firing.run_id for run in self._runs.values()}
        await self._inheritance.end_strays([c for c in containers if c.run_id not in in_hand])
        self._inherited = True


def _has_written(entry: Entry, state: ScheduleState) -> bool:
    """Whether *state*, which was read afterwards, has what *entry* begins or drops."""
    if entry.firing is not None:
        return state.firing is not None and state.firing.run_id == entry.firing.run_id
    return entry.claim.drop is not None and state.fired_at == entry.claim.drop[0]
