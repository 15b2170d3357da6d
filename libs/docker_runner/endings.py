"""Why a container ended: derived from what the engine says, what its supervisor left, and what we did to it. Pure."""

import json

from libs.docker_runner.container import ContainerState, Ended, EndReason, ManagedContainer
from libs.docker_runner.executable import MIB
from libs.docker_runner.run_folders import Outcome

LEASE_LOST_EXIT_CODE = 75
_KILLED_EXIT_CODES = (130, 137, 143)


def end_reason(container: ManagedContainer, outcome: Outcome, stopped: EndReason | None) -> EndReason:
    """The reason why *container* no longer runs; *stopped* is what one of us did to it."""
    code = container.exit_code
    # Without an outcome the supervisor did not even start the bot, or could not write any more.
    if code == LEASE_LOST_EXIT_CODE and outcome.reason in ("lease-lost", "running", ""):
        return EndReason.LEASE_LOST
    if stopped is not None:
        return stopped
    if code == 137 and (container.oom_killed or outcome.oom_kills):
        return EndReason.OOM
    if container.state is ContainerState.EXITED and code == 0:
        return EndReason.FINISHED
    return EndReason.KILLED if code in _KILLED_EXIT_CODES else EndReason.ERROR


def result_of(
    ended: Ended, outcome: Outcome, *, timeout_seconds: float, memory_bytes: int
) -> tuple[object, str | None]:
    """What ``main`` returned, or one sentence on why there is nothing. Parses a large result in seconds."""
    match ended.reason:
        case EndReason.TIMEOUT:
            return None, f"timed out after {timeout_seconds:g} s"
        case EndReason.OOM:
            return None, f"out of memory: it may use {memory_bytes // MIB} MiB"
        case EndReason.LEASE_LOST:
            return None, "its worker lost the lease"
        case EndReason.STOPPED | EndReason.KILLED | EndReason.MISSING:
            return None, f"it was {ended.reason} before it ended"
    try:
        value = json.loads(outcome.payload) if outcome.payload else None
    except (ValueError, RecursionError):
        return None, "its result is not JSON"
    if outcome.too_large:
        return None, "its result is larger than the limit"
    if outcome.kind == "error":
        message = value.get("message") if isinstance(value, dict) else None
        return None, str(message) if message else "main raised an error"
    if ended.reason is EndReason.ERROR:
        return None, ended.error or f"it ended with exit code {ended.exit_code}"
    return (value if outcome.kind == "result" else None), None
