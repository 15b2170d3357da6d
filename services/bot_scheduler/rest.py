"""Whether a schedule may be moved for compaction: nothing of it is active or due soon. Pure."""

from libs.core.store.entities import Entity
from services.bot_scheduler.state import ScheduleState

_ORDERED_AHEAD_SECONDS = 30.0
_MOVED_AHEAD_SECONDS = 10.0


def is_at_rest(schedule: Entity, now: float) -> bool:
    """Whether *schedule* may be ordered to move at *now* (Unix seconds)."""
    return is_idle(ScheduleState.of(schedule), now, _ORDERED_AHEAD_SECONDS)


def is_idle(state: ScheduleState, now: float, ahead_seconds: float = _MOVED_AHEAD_SECONDS) -> bool:
    """Whether no run is active or waits, and none is due within *ahead_seconds*."""
    if state.held or state.definition is None or state.firing is not None or state.trigger is not None:
        return False
    if state.queued or state.dropped:
        return False
    return state.next_at is not None and state.next_at >= now + ahead_seconds
