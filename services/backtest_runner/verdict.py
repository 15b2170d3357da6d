"""What the end of a run means for its backtest: done, failed, or retry. Pure."""

from dataclasses import replace

from libs.core.errors import UserError
from libs.core.hostile_json import Kind
from libs.core.room import MIB
from libs.docker_runner.containers.container import EndReason, RunOutcome
from libs.docker_runner.containers.failure import FailureReason
from libs.docker_runner.containers.returned import Returned
from libs.docker_runner.errors import ArchiveRejected, CodeMissing, DataMissing, UnknownRuntime
from libs.docker_runner.runs.attempt import AttemptResult

CANCELLED = "cancelled"
LOST = "lost"

_NOT_ITS_FAULT = (EndReason.LEASE_LOST, EndReason.KILLED, EndReason.MISSING, EndReason.STOPPED)
_MESSAGES = {
    EndReason.LEASE_LOST: "its worker lost the lease and did not return",
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


def given_up(result: AttemptResult, attempts: int) -> AttemptResult:
    """Return the final result after so many attempts, of which *result* is the last one's."""
    if not result.again:
        return result
    times = "one attempt" if attempts == 1 else f"{attempts} attempts"
    return replace(result, message=f"failed after {times}: {result.message}", again=False)


def verdict_of(outcome: RunOutcome, *, timeout_seconds: float, result_bytes: int) -> AttemptResult:
    """Return the result of a run."""
    reason = outcome.ended.reason
    if reason in _NOT_ITS_FAULT:
        return AttemptResult(reason, _MESSAGES[reason], again=True)
    if reason is EndReason.TIMEOUT:
        return AttemptResult(reason, f"timeout: it ran longer than {timeout_seconds:g} s (BATCH_TIMEOUT)")
    failure = outcome.failure
    if failure is None:
        return _result_verdict(outcome.returned)
    match failure.reason:
        case FailureReason.RESULT_TOO_LARGE:
            limit = result_bytes / MIB
            return AttemptResult(
                "result", f"result: what main returned is larger than {limit:g} MiB of JSON (BOT_RESULT_MB)"
            )
        case FailureReason.RESULT_LOST:
            return AttemptResult("result", f"result: {failure.message}", again=True)
        case FailureReason() as unusable if unusable in _UNUSABLE:
            return AttemptResult("result", f"result: {failure.message}"[:_MOST_OF_AN_ERROR])
        case FailureReason.INTERRUPTED | FailureReason.EXIT_CODE | FailureReason.REPORTED | FailureReason.HEAP_FULL:
            return AttemptResult(str(reason), failure.sentence[:_MOST_OF_AN_ERROR])
    error = f"exception: {failure.summary}"[:_MOST_OF_AN_ERROR]
    return AttemptResult("exception", f"{error}; {failure.hint}" if failure.hint else error)


def rejection(error: UserError) -> AttemptResult:
    """Return the result of a backtest that no worker can start."""
    match error:
        case CodeMissing():
            return AttemptResult("code-missing", f"missing code: {error}")
        case DataMissing():
            return AttemptResult("data-missing", str(error))
        case ArchiveRejected():
            return AttemptResult("bad-archive", f"bad archive: {error}")
        case UnknownRuntime():
            return AttemptResult("unknown-runtime", str(error))
    return AttemptResult("rejected", str(error))


def _result_verdict(returned: Returned | None) -> AttemptResult:
    if returned is None or returned.kind not in _BARE:
        return AttemptResult(EndReason.FINISHED)
    return AttemptResult(
        "result",
        f"result: main returned {_BARE[returned.kind]}: {returned.beginning}; a backtest must return an object with "
        "its results (a dict), a list, or nothing",
    )
