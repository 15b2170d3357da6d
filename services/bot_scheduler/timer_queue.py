"""The due time of each schedule, in memory."""

from bisect import bisect_left, bisect_right, insort


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
