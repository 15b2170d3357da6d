"""When containers started, by the clock by which their segment's owner decides. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from libs.docker_runner.containers.container import ManagedContainer

# A smaller difference of clocks is left alone: it changes with each measurement.
_SAME_CLOCK_SECONDS = 1.0


class StartTimes:
    """The start times of one segment's containers between rounds."""

    def __init__(self) -> None:
        self._seen: dict[str, datetime] = {}

    def corrected(self, actual: Sequence[ManagedContainer], now: float, engine_now: float) -> list[ManagedContainer]:
        """Return *actual* with start times by the clock of *now*; *engine_now* is the time of the engine's host.

        A container whose start time is unknown gets the time of its first sighting.
        """
        ahead_seconds = engine_now - now
        ahead = timedelta(seconds=ahead_seconds if abs(ahead_seconds) > _SAME_CLOCK_SECONDS else 0.0)
        known = {c.container_id: c.started_at - ahead for c in actual if c.started_at is not None}
        moment = datetime.fromtimestamp(now, UTC)
        seen = {c.container_id: known.get(c.container_id, moment) for c in actual}
        self._seen = {one: self._seen.get(one, first) for one, first in seen.items()}
        return [replace(c, started_at=known.get(c.container_id, self._seen[c.container_id])) for c in actual]
