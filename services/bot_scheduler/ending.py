"""The result of a run, and its consequence for the firing. Pure."""

from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum

from libs.docker_runner.containers import endings
from libs.docker_runner.containers.container import Ended, EndReason
from libs.docker_runner.containers.failure import FailureReason
from libs.docker_runner.runs.attempt import AttemptResult
from services.bot_scheduler.decide import Dropped
from services.bot_scheduler.policy import Policy
from services.bot_scheduler.state import Firing


class StopReason(StrEnum):
    """Reasons for ending a run on purpose; none of these is retried."""

    KILLED = "killed"
    REPLACED = "replaced"
    DELETED = "deleted"
    WITHDRAWN = "withdrawn"


REJECTED = "rejected"
"""Its definition is wrong; retrying cannot help."""
LOST = "missing"
"""Its worker died, and its outcome is unknown."""


_FINAL = (EndReason.FINISHED, REJECTED, Dropped.MISFIRE)


def result_of(reason: str, at: datetime, message: str = "", ended: Ended | None = None) -> AttemptResult:
    """Return the result of an attempt that was not stopped on purpose."""
    return AttemptResult(reason, message, reason not in _FINAL, at, ended)


def next_attempt(firing: Firing, result: AttemptResult, policy: Policy, now: float, run_id: str) -> Firing | None:
    """Return the next attempt, with *run_id*; None when the firing is completed."""
    delay = policy.retry_after(firing.attempt)
    if not result.again or delay is None:
        return None
    return replace(
        firing, run_id=run_id, attempt=firing.attempt + 1, started=False, waiting=False, not_before=now + delay
    )


def message_of(ended: Ended) -> str:
    """Return why a run failed; if it was ended, or has only an exit code, its last line of output."""
    if ended.reason is EndReason.FINISHED:
        return ""
    if ended.reason is EndReason.OOM:
        return endings.describe_end(ended)
    if ended.failure is not None and ended.failure.reason is not FailureReason.EXIT_CODE:
        return ended.failure.sentence
    return ended.error[:500] or endings.last_line(ended) or endings.describe_end(ended)


def utc(instant: float) -> datetime:
    """Format Unix seconds as a time with its zone."""
    return datetime.fromtimestamp(instant, UTC)
