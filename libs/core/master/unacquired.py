"""Find segments whose assigned worker does not acquire their lease, regardless of its reports. Pure."""

from collections.abc import Collection, Iterable, Mapping

from libs.core.leases.lease import SegmentView

_LIMIT_SECONDS = 5.0
_PASSED_OVER_SECONDS = 20.0


class Unacquired:
    """The assignments without a lease, by worker and segment. All times are of one monotonic clock, in seconds.

    A lease of another holder is none that the worker could acquire, so its time begins when that lease has ended.
    """

    def __init__(
        self, limit_seconds: float = _LIMIT_SECONDS, passed_over_seconds: float = _PASSED_OVER_SECONDS
    ) -> None:
        self._limit_seconds = limit_seconds
        self._passed_over_seconds = passed_over_seconds
        self._since: dict[tuple[str, int], float] = {}
        self._overdue_until: dict[tuple[str, int], float] = {}

    def surveyed(self, survey: Iterable[SegmentView], read_at: float) -> list[tuple[str, int]]:
        """Record a *survey* that was read at *read_at* or later; return the assignments that are overdue since then."""
        leased = {segment.segment_id for segment in survey if segment.lease is not None}
        overdue = []
        for key, since in list(self._since.items()):
            if key[1] in leased:
                del self._since[key]
            elif read_at - since >= self._limit_seconds:
                del self._since[key]
                self._overdue_until[key] = read_at + self._passed_over_seconds
                overdue.append(key)
        self._overdue_until = {key: until for key, until in self._overdue_until.items() if until > read_at}
        return overdue

    def assigned(
        self, assignments: Mapping[str, Collection[int]], survey: Iterable[SegmentView], told_at: float
    ) -> None:
        """Record what is assigned from *told_at* on, to which worker, after a decision about *survey*."""
        leased = {segment.segment_id for segment in survey if segment.lease is not None}
        pending = {(worker, one) for worker, segments in assignments.items() for one in segments if one not in leased}
        self._since = {key: self._since.get(key, told_at) for key in pending}

    def overdue(self, now: float) -> dict[str, frozenset[int]]:
        """Return the segments that each worker did not acquire in time lately."""
        found: dict[str, set[int]] = {}
        for (worker_id, segment_id), until in self._overdue_until.items():
            if until > now:
                found.setdefault(worker_id, set()).add(segment_id)
        return {worker_id: frozenset(segments) for worker_id, segments in found.items()}

    def next_seconds(self, now: float) -> float | None:
        """Return when the next assignment may become overdue; None without one that could."""
        return max(0.0, min(self._since.values()) + self._limit_seconds - now) if self._since else None

    def clear(self) -> None:
        """Forget everything."""
        self._since.clear()
        self._overdue_until.clear()
