import pytest

from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, from_labels
from libs.docker_runner.containers.failure import Failure, FailureReason
from libs.docker_runner.runs.attempt import AttemptResult
from services.bot_scheduler.ending import REJECTED, StopReason, message_of, next_attempt, result_of, utc
from services.bot_scheduler.policy import Policy
from services.bot_scheduler.state import Firing

POLICY = Policy(retries=2, retry_delay_seconds=5.0)
FIRING = Firing(at=100, run_id="one", host="h", started=True)


def test_a_failed_run_is_tried_again_under_a_name_of_its_own() -> None:
    again = next_attempt(FIRING, result_of("error", utc(0)), POLICY, now=130.0, run_id="two")

    assert again == Firing(at=100, run_id="two", host="h", attempt=2, started=False, not_before=135.0)


def test_run_is_retried_at_most_as_often_as_configured() -> None:
    last = Firing(at=100, run_id="three", attempt=3)

    assert next_attempt(last, result_of("error", utc(0)), POLICY, now=130.0, run_id="four") is None


@pytest.mark.parametrize(
    "ending",
    [result_of("finished", utc(0)), result_of(REJECTED, utc(0)), AttemptResult(StopReason.KILLED, at=utc(0))],
)
def test_what_went_well_or_was_meant_is_not_tried_again(ending: AttemptResult) -> None:
    assert next_attempt(FIRING, ending, POLICY, now=130.0, run_id="two") is None


@pytest.mark.parametrize("reason", ["oom", "timeout", "killed", "missing", "stopped", "lease-lost", "not-started"])
def test_everything_else_is(reason: str) -> None:
    assert next_attempt(FIRING, result_of(reason, utc(0)), POLICY, now=130.0, run_id="two") is not None


RAISED = Failure(FailureReason.EXCEPTION, "no funds", "ValueError", "pay in")
EXITED = Failure(FailureReason.EXIT_CODE, "it ended with exit code 3")


@pytest.mark.parametrize(
    ("reason", "failure", "lines", "message"),
    [
        (EndReason.FINISHED, None, ["done"], ""),
        (EndReason.ERROR, RAISED, ['{"status": "error"}'], "ValueError: no funds; pay in"),
        (EndReason.ERROR, EXITED, ["giving up", " "], "giving up"),
        (EndReason.ERROR, EXITED, [], "it ended with exit code 3"),
        (EndReason.KILLED, None, ["working"], "working"),
        (
            EndReason.OOM,
            None,
            ["working"],
            "out of memory: it used more than its 512 MiB; raise config.resources.memoryMb or MEMORY_LIMIT_MB",
        ),
    ],
)
def test_message_contains_the_reason_of_a_failed_run(
    reason: EndReason, failure: Failure | None, lines: list[str], message: str
) -> None:
    labels = {"runtime.memory-bytes": str(512 << 20)}
    container = from_labels(labels, container_id="c", name="n", state=ContainerState.EXITED)
    ended = Ended(container, 1, False, reason, None, None, last_lines=lines, failure=failure)

    assert message_of(ended) == message
