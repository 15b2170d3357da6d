"""When a failed bot may restart, and when its containers started, by the clock of the segment's owner. Pure.

The backoff is exponential, and is reset after a time without failures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from libs.docker_runner.containers.container import ManagedContainer

# A smaller difference of clocks is left alone: it changes with each measurement.
_SAME_CLOCK_SECONDS = 1.0
_CAP_SECONDS = 300.0
_CLOCKS_DIFFER_SECONDS = 5.0


@dataclass(frozen=True)
class RestartPolicy:
    """The parameters of the backoff, in seconds."""

    initial_seconds: float = 1.0
    cap_seconds: float = _CAP_SECONDS
    forgiven_after_seconds: float = 600.0


@dataclass(frozen=True)
class RestartHistory:
    """The failures of one bot, and their effect on its next start.

    Attributes:
        failures: consecutive failures since the last reset.
        restarts: failures since the bot was created; never decreases.
        not_before: Unix seconds before which the bot is not started again.
        counted_run: the run whose failure was counted last; "" for none.
        restart: the id of the requested restart that was followed last; "" for none.
    """

    failures: int = 0
    restarts: int = 0
    not_before: float = 0.0
    counted_run: str = ""
    restart: str = ""

    def after_death(
        self, *, ran_seconds: float, now: float, policy: RestartPolicy, run_id: str = ""
    ) -> "RestartHistory":
        """Return the history after the bot failed after running *ran_seconds*. One run's failure counts once.

        Args:
            run_id: "" for a run that did not start.
        """
        if run_id and run_id == self.counted_run:
            return self
        failures = 0 if ran_seconds >= policy.forgiven_after_seconds else self.failures
        # The exponent is bounded: 2.0**1100 is an OverflowError, and a bot may fail that often.
        delay = min(policy.cap_seconds, policy.initial_seconds * 2.0 ** min(failures, 60))
        return replace(
            self,
            failures=failures + 1,
            restarts=self.restarts + 1,
            not_before=now + delay,
            counted_run=run_id or self.counted_run,
        )

    def after_rejection(self, *, now: float, policy: RestartPolicy) -> "RestartHistory":
        """Return the history after a start failed for a reason that the bot's owner must correct."""
        return replace(self, failures=self.failures + 1, not_before=now + policy.cap_seconds)

    def forgiven(self) -> "RestartHistory":
        """Return the history of a changed bot: it is tried at once."""
        return replace(self, failures=0, not_before=0.0)

    def may_start(self, now: float) -> bool:
        """Whether the backoff is over at *now* (Unix seconds).

        A later end than any backoff has was written by a worker whose clock was ahead, and does not count.
        """
        return now >= self.not_before or self.not_before - now > _CAP_SECONDS + _CLOCKS_DIFFER_SECONDS


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
