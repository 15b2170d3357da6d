"""Decide what happens to a schedule's firing. Pure: takes state and time as arguments."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from services.bot_scheduler.cron import Every, Schedule
from services.bot_scheduler.policy import Definition, Misfire, Overlap
from services.bot_scheduler.state import FIRED_AT, NEXT, QUEUED, TRIGGER, Cause, Firing, ScheduleState

MAX_QUEUED = 100
# A slightly late run is an ordinary one; a later one is recorded as a misfire.
_ON_TIME_SECONDS = 5.0
_LOOK_BACK_SECONDS = (60, 3600, 86_400, 31 * 86_400, 400 * 86_400)


class Dropped(StrEnum):
    """Why a firing is not run: the previous run was active, or it was detected too late."""

    OVERLAP = "skipped"
    MISFIRE = "missed"


@dataclass(frozen=True)
class Claim:
    """Changes to write if the document is unchanged; nothing else may be done before.

    Attributes:
        fire: start a run for the firing at this time, for *cause*.
        drop: a firing without a run, with the reason, for the history.
    """

    changes: Mapping[str, object]
    fire: int | None = None
    cause: Cause = Cause.SCHEDULE
    drop: tuple[int, Dropped] | None = None


@dataclass(frozen=True)
class Wait:
    """Nothing to do until *until* (Unix seconds); None: until the document changes or its run ends.

    Attributes:
        ahead: whether the decision may be made some time before *until*: it is then a claim of that firing.
    """

    until: float | None = field(default=None)
    ahead: bool = False


def decide(state: ScheduleState, now: float, *, busy: bool, ahead_seconds: float = 0.0) -> Claim | Wait:
    """Decide about a schedule at *now* (Unix seconds).

    Args:
        busy: a run of it is active, or waits for its next attempt.
        ahead_seconds: a firing is claimed up to this time before it is due, unless the schedule is busy: its run may
            end before that.
    """
    if state.held or state.definition is None:
        # A held schedule advances; firings that it missed meanwhile are not made up for.
        return _pass_by(state, state.definition, now) if state.definition is not None else Wait()
    if not busy and (waiting := _waiting(state)) is not None:
        return waiting
    if state.next_at is None or state.next_at <= state.fired_at or not state.runnable:
        return _pass_by(state, state.definition, now)
    if state.next_at > (now if busy else now + ahead_seconds):
        return Wait(state.next_at, ahead=not busy)
    return _due(state, state.definition, state.next_at, now, busy)


def replaces(state: ScheduleState, running: Firing) -> bool:
    """Whether a waiting firing replaces the *running* one."""
    if not state.queued or not state.runnable or state.definition is None:
        return False
    # The document read before the waiting one started still contains it as waiting.
    return state.definition.policy.overlap is Overlap.REPLACE and running.at < state.queued[0]


def _waiting(state: ScheduleState) -> Claim | None:
    """Return a queued firing, or a user's trigger; firings first, as they are older."""
    if state.queued and state.runnable:
        return Claim({QUEUED: list(state.queued[1:]) or None}, fire=state.queued[0], cause=Cause.QUEUE)
    if state.trigger is not None:
        return Claim({TRIGGER: None}, fire=int(state.trigger.requested_at), cause=Cause.MANUAL)
    return None


def _pass_by(state: ScheduleState, definition: Definition, now: float) -> Claim | Wait:
    """Advance to the next firing without a run."""
    if state.next_at is not None and state.next_at > max(now, state.fired_at):
        return Wait(state.next_at)
    after = max(now, state.fired_at)
    changes: dict[str, object] = {NEXT: definition.schedule.next_after(after, state.next_at or None)}
    if state.queued and not state.runnable:
        changes[QUEUED] = None
    return Claim(changes)


def _due(state: ScheduleState, definition: Definition, next_at: int, now: float, busy: bool) -> Claim:
    policy, schedule = definition.policy, definition.schedule
    at = latest_until(schedule, next_at, now)
    changes: dict[str, object] = {NEXT: schedule.next_after(max(now, at), at), FIRED_AT: at}
    late_seconds = now - at
    if late_seconds > policy.misfire_grace_seconds and policy.misfire is Misfire.SKIP:
        return Claim(changes, drop=(at, Dropped.MISFIRE))
    if not busy:
        cause = Cause.MISFIRE if late_seconds > _ON_TIME_SECONDS else Cause.SCHEDULE
        return Claim(changes, fire=at, cause=cause)
    match policy.overlap:
        case Overlap.QUEUE if len(state.queued) < MAX_QUEUED:
            return Claim({**changes, QUEUED: [*state.queued, at]})
        case Overlap.REPLACE:
            return Claim({**changes, QUEUED: [at]})
    return Claim(changes, drop=(at, Dropped.OVERLAP))


def latest_until(schedule: Schedule, first: int, now: float) -> int:
    """Return the latest firing at or before *now*, given that *first* is one; *first* itself if it is in the future."""
    if first >= now:
        return first
    if isinstance(schedule, Every):
        return first + int((now - first) // schedule.seconds) * schedule.seconds
    for seconds in _LOOK_BACK_SECONDS:
        # Either the firings are frequent or there are few: searching backwards in steps keeps it short.
        begin = max(first, now - seconds)
        found = schedule.next_after(begin - 1)
        if found <= now:
            return _last_of_run(schedule, found, now)
        if begin == first:
            break
    return first


def _last_of_run(schedule: Schedule, found: int, now: float) -> int:
    while (later := schedule.next_after(found, found)) <= now:
        found = later
    return found
