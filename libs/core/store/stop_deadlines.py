"""When a container is certainly gone that stops after its segment was given away. Pure.

The former owner has recorded a deadline by MongoDB's time, and for how long that was ahead; the container's init ends
the bot before it. A later owner relies on it by two clocks. By its own, the container is gone when that time has passed
since it first saw the record. By MongoDB's clock it is gone earlier, which counts only if that clock was steady.
"""

from libs.core.run_record import RunRecord

MARGIN_SECONDS = 1.0
"""The init needs a moment to end the bot."""
_UNKNOWN_SECONDS = 60.0
_FORGOTTEN_SECONDS = 86_400.0


class StopDeadlines:
    """The deadlines that one owner of a segment has seen. Times are boot_seconds(), except for MongoDB's."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def may_live(self, run: RunRecord, *, now: float, store_now: float, steady_seconds: float) -> bool:
        """Whether the container of *run*, which has no end yet, may still stop.

        Args:
            store_now: MongoDB's time, Unix seconds.
            steady_seconds: for how long MongoDB's clock has not jumped, as far as is known.
        """
        if run.stop_deadline is None:
            return False
        seen_at = self._seen.setdefault(run.run_id, now)
        seconds = _UNKNOWN_SECONDS if run.stop_seconds is None else run.stop_seconds
        if now >= seen_at + seconds + MARGIN_SECONDS:
            return False
        if steady_seconds < seconds:
            return True
        return store_now < run.stop_deadline.timestamp() + MARGIN_SECONDS

    def forget_old(self, now: float) -> None:
        """Forget what was first seen long ago."""
        self._seen = {run_id: at for run_id, at in self._seen.items() if now - at < _FORGOTTEN_SECONDS}
