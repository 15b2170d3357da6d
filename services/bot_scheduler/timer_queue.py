"""The time of the next decision about each schedule, in memory."""

from bisect import bisect_left, bisect_right, insort

# A claim and the record of its run take two round trips, and a little for each schedule that is due at the same moment.
_AHEAD_SECONDS = 0.05
_AHEAD_SECONDS_EACH = 0.002
_MOST_AHEAD_SECONDS = 2.0


class TimerQueue:
    """One time per id, in order. A few thousand are moved in microseconds."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []

    def put(self, entity_id: str, at: float | None) -> None:
        """Set the time of *entity_id* to *at* (Unix seconds); None removes it."""
        known = self._times.pop(entity_id, None)
        if known is not None:
            del self._order[bisect_left(self._order, (known, entity_id))]
        if at is not None:
            self._times[entity_id] = at
            insort(self._order, (at, entity_id))

    def first(self) -> float | None:
        """Return the earliest time; None without any."""
        return self._order[0][0] if self._order else None

    def count_until(self, at: float) -> int:
        """Return how many are due by *at*."""
        return bisect_right(self._order, at, key=lambda entry: entry[0])

    def take_until(self, at: float, most: int | None = None) -> list[str]:
        """Remove and return those due at *at* or earlier, earliest first, at most *most*."""
        taken = self._order[: self.count_until(at)][:most]
        del self._order[: len(taken)]
        for _, entity_id in taken:
            del self._times[entity_id]
        return [entity_id for _, entity_id in taken]


class DecisionTimes:
    """When each schedule is decided next: at its time, or ahead of it if the decision is to claim its firing.

    Claims and records that are written ahead do not delay the start. How long ahead affects only lateness: a decision
    that must not be made before its time is not made ahead.
    """

    def __init__(self) -> None:
        self._exact = TimerQueue()
        self._claims = TimerQueue()

    def put(self, schedule_id: str, at: float | None, *, ahead: bool = False) -> None:
        """Decide at *at* (Unix seconds), or :meth:`ahead_seconds` before it if *ahead*; None: not again."""
        self._exact.put(schedule_id, None if ahead else at)
        self._claims.put(schedule_id, at if ahead else None)

    def ahead_seconds(self, now: float) -> float:
        """Return how long before their time claims are made now: longer when many are due at the same time."""
        first = self._claims.first()
        if first is None:
            return 0.0
        number = self._claims.count_until(max(first, now))
        return min(_MOST_AHEAD_SECONDS, _AHEAD_SECONDS + _AHEAD_SECONDS_EACH * number)

    def first(self, now: float) -> float | None:
        """Return the time of the first decision; None without any."""
        claim = self._claims.first()
        times = (self._exact.first(), claim - self.ahead_seconds(now) if claim is not None else None)
        return min((time for time in times if time is not None), default=None)

    def take(self, now: float, ahead_seconds: float, most: int) -> list[str]:
        """Remove and return at most *most* schedules to decide at *now*, with claims *ahead_seconds* ahead."""
        exact = self._exact.take_until(now, most)
        return exact + self._claims.take_until(now + ahead_seconds, most - len(exact))
