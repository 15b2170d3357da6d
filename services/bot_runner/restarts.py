"""When a failed bot may restart: exponential backoff, reset after a time without failures."""

from dataclasses import dataclass, replace

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
    """

    failures: int = 0
    restarts: int = 0
    not_before: float = 0.0
    counted_run: str = ""

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
        return RestartHistory(failures + 1, self.restarts + 1, now + delay, run_id or self.counted_run)

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
