"""What the end of a run means for its backtest: done, failed, or retry. Pure."""

from dataclasses import dataclass

from libs.core.errors import UserError
from libs.core.hostile_json import Kind
from libs.docker_runner.containers.container import EndReason, RunOutcome
from libs.docker_runner.containers.failure import FailureReason
from libs.docker_runner.containers.returned import Returned
from libs.docker_runner.errors import ArchiveRejected, CodeMissing, UnknownRuntime

FINISHED = "finished"
CANCELLED = "cancelled"
LOST = "lost"
NOT_STARTED = "not-started"

_NOT_ITS_FAULT = (EndReason.LEASE_LOST, EndReason.KILLED, EndReason.MISSING, EndReason.STOPPED)
_TELLING = {
    EndReason.LEASE_LOST: "its worker lost the lease and did not come back",
    EndReason.KILLED: "it was killed by a signal",
    EndReason.MISSING: "its container was removed",
    EndReason.STOPPED: "its container was stopped",
}
_UNUSABLE = (
    FailureReason.RESULT_TOO_DEEP,
    FailureReason.RESULT_TOO_MANY_VALUES,
    FailureReason.RESULT_TOO_COMPLEX,
)
_BARE = {Kind.STRING: "a bare string", Kind.NUMBER: "a bare number", Kind.BOOLEAN: "a bare boolean"}
_MOST_OF_AN_ERROR = 4000


@dataclass(frozen=True)
class Verdict:
    """What one attempt came to.

    Attributes:
        reason: one word; see :data:`FINISHED` and its siblings, and ``EndReason``.
        error: a sentence for people; empty on success.
        again: it was not the backtest's fault: another attempt may do better.
    """

    reason: str
    error: str = ""
    again: bool = False

    @property
    def success(self) -> bool:
        """`main` returned a result that can be used."""
        return self.reason == FINISHED

    def after(self, attempts: int) -> "Verdict":
        """What stays of it when no other attempt is made."""
        if not self.again:
            return self
        times = "once" if attempts == 1 else f"{attempts} times"
        return Verdict(self.reason, f"given up after it was tried {times}: {self.error}")

    def failed_analysis(self) -> dict[str, object]:
        """What stands in `analysis.json` of a backtest without a result."""
        return {"status": "error", "message": self.error, "error": self.error}


def verdict_of(outcome: RunOutcome, *, timeout_seconds: float, result_bytes: int) -> Verdict:
    """The verdict on a run that took place."""
    reason = outcome.ended.reason
    if reason in _NOT_ITS_FAULT:
        return Verdict(reason, _TELLING[reason], again=True)
    if reason is EndReason.TIMEOUT:
        return Verdict(reason, f"timeout: it ran longer than {timeout_seconds:g} s (BATCH_TIMEOUT)")
    failure = outcome.failure
    if failure is None:
        return _result_verdict(outcome.returned)
    match failure.reason:
        case FailureReason.RESULT_TOO_LARGE:
            limit = result_bytes / (1024 * 1024)
            return Verdict("result", f"result: what main returned is larger than {limit:g} MiB of JSON (BOT_RESULT_MB)")
        case FailureReason.RESULT_LOST:
            return Verdict("result", f"result: {failure.message}", again=True)
        case FailureReason() as unusable if unusable in _UNUSABLE:
            return Verdict("result", f"result: {failure.message}"[:_MOST_OF_AN_ERROR])
        case FailureReason.INTERRUPTED | FailureReason.EXIT_CODE | FailureReason.HEAP_FULL:
            return Verdict(str(reason), failure.sentence[:_MOST_OF_AN_ERROR])
    error = f"exception: {failure.summary}"[:_MOST_OF_AN_ERROR]
    return Verdict("exception", f"{error}; {failure.hint}" if failure.hint else error)


def rejection(error: UserError) -> Verdict:
    """The verdict on a backtest that cannot be begun, whoever tries."""
    match error:
        case CodeMissing():
            return Verdict("code-missing", f"missing code: {error}")
        case ArchiveRejected():
            return Verdict("bad-archive", f"bad archive: {error}")
        case UnknownRuntime():
            return Verdict("unknown-runtime", str(error))
    return Verdict("rejected", str(error))


def _result_verdict(returned: Returned | None) -> Verdict:
    if returned is None or returned.kind not in _BARE:
        return Verdict(FINISHED)
    return Verdict(
        "result",
        f"result: main returned {_BARE[returned.kind]}: {returned.beginning}; a backtest must return an object with "
        "its results (a dict), a list, or nothing",
    )
