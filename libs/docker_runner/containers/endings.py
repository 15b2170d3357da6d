"""Derive why a container ended from the engine, the init's notes and the worker's own actions. Pure."""

from libs.core.room import MIB, Need
from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, ManagedContainer
from libs.docker_runner.containers.failure import Failure, FailureReason
from libs.docker_runner.containers.run_folders import Outcome

LEASE_LOST_EXIT_CODE = 75
_KILLED_EXIT_CODES = (130, 137, 143)
_ABORTED_EXIT_CODE = 134
_LINE_CHARACTERS = 500


def end_reason(
    container: ManagedContainer, outcome: Outcome, stopped: EndReason | None, *, has_expired: bool = False
) -> EndReason:
    """Return why *container* no longer runs.

    Args:
        stopped: what a worker did to it.
        has_expired: whether its keepalive has expired, so that the host agent may have killed it.
    """
    code = container.exit_code
    # Without an outcome the init did not even start the bot, or could not write any more.
    if stopped in (EndReason.NODE_LOST, EndReason.EVICTED):
        return stopped
    if code == LEASE_LOST_EXIT_CODE and outcome.reason in ("lease-lost", "running", ""):
        return EndReason.LEASE_LOST
    if stopped is not None:
        return stopped
    if code == 137 and (container.oom_killed or outcome.oom_kills):
        return EndReason.OOM
    # The init wrote no last outcome: it was killed itself.
    if code == 137 and has_expired and outcome.reason in ("running", ""):
        return EndReason.LEASE_LOST
    if container.state is ContainerState.EXITED and code == 0:
        return EndReason.FINISHED
    return EndReason.KILLED if code in _KILLED_EXIT_CODES else EndReason.ERROR


def failure_of(reason: EndReason, exit_code: int | None, engine_error: str, outcome: Outcome) -> Failure | None:
    """Return the failure of a bot that ended for *reason*; None unless it ended by itself with an error."""
    if reason is not EndReason.ERROR:
        return None
    if outcome.kind == "error":
        # An init of an older version reports no more.
        return outcome.failure or Failure(FailureReason.EXCEPTION)
    if outcome.kind == "written" and outcome.report is not None and outcome.report.is_error:
        return Failure(FailureReason.REPORTED, outcome.report.message)
    if exit_code == _ABORTED_EXIT_CODE and outcome.failure and outcome.failure.reason is FailureReason.HEAP_FULL:
        return outcome.failure
    return Failure(FailureReason.EXIT_CODE, engine_error or f"it ended with exit code {exit_code}")


def without_result(ended: Ended, outcome: Outcome, *, timeout_seconds: float) -> Failure | None:
    """Return why there is no result; None when ``main`` returned."""
    if ended.failure is not None:
        return ended.failure
    if ended.reason is EndReason.TIMEOUT:
        return Failure(FailureReason.INTERRUPTED, f"timed out after {timeout_seconds:g} s")
    if ended.reason is not EndReason.FINISHED:
        return Failure(FailureReason.INTERRUPTED, describe_end(ended))
    if outcome.too_large:
        return Failure(FailureReason.RESULT_TOO_LARGE, "its result is larger than the limit")
    # The exit code shows that the init reached its end, where it tries to write its last note.
    if outcome.reason in ("", "running") or outcome.kind not in ("result", "none"):
        return Failure(FailureReason.RESULT_LOST, "what main returned could not be kept (is TEMP_DIR full?)")
    return None


def describe_end(ended: Ended) -> str:
    """Return one sentence about why a container ended, with the remedy as a hint."""
    match ended.reason:
        case EndReason.FINISHED:
            return "main returned"
        case EndReason.OOM:
            return out_of_memory(ended.container.limits)
        case EndReason.ERROR if ended.failure is not None:
            return ended.failure.sentence
        case EndReason.ERROR:
            return f"it ended with exit code {ended.exit_code}"
        case EndReason.LEASE_LOST:
            return "its worker lost the lease"
        case EndReason.NODE_LOST:
            return "its node was lost: it could not be reached until no lease kept the bot alive"
        case EndReason.EVICTED:
            return "its node evicted it to save memory or disk; lower its use of disk, or give nodes more"
        case EndReason.KILLED:
            return f"it was killed from outside (exit code {ended.exit_code})"
        case EndReason.STOPPED | EndReason.MISSING:
            return f"it was {ended.reason} before it ended"
    return f"it ended: {ended.reason}"


def out_of_memory(limits: Need | None) -> str:
    """Return what the owner of a bot can do about its end, with the limit if known."""
    more = "memory than its limit" if limits is None else f"than its {limits.memory_bytes // MIB} MiB"
    return f"out of memory: it used more {more}; raise config.resources.memoryMb or MEMORY_LIMIT_MB"


def last_line(ended: Ended) -> str:
    """Return the last non-empty line of a container's output, bounded; empty without one."""
    return next((line for line in reversed(ended.last_lines) if line.strip()), "")[:_LINE_CHARACTERS]
