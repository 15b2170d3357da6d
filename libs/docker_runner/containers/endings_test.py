"""Why a container ended, from what is known of it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from libs.core.room import MIB, Need
from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, ManagedContainer, from_labels
from libs.docker_runner.containers.endings import describe_end, end_reason, failure_of, without_result
from libs.docker_runner.containers.failure import Failure, FailureReason
from libs.docker_runner.containers.reported import Report
from libs.docker_runner.containers.run_folders import Outcome


def container(exit_code: int | None, oom_killed: bool = False) -> ManagedContainer:
    return from_labels(
        {}, container_id="c", name="n", state=ContainerState.EXITED, exit_code=exit_code, oom_killed=oom_killed
    )


@pytest.mark.parametrize(
    ("exit_code", "oom_killed", "outcome", "stopped", "expected"),
    [
        (0, False, Outcome("exit", "result"), None, EndReason.FINISHED),
        (1, False, Outcome("exit", "error"), None, EndReason.ERROR),
        (3, False, Outcome("exit"), None, EndReason.ERROR),
        (137, True, Outcome("exit"), None, EndReason.OOM),
        (137, False, Outcome("exit", oom_kills=1), None, EndReason.OOM),
        (137, True, Outcome(), None, EndReason.OOM),
        (137, False, Outcome(), None, EndReason.KILLED),
        (143, False, Outcome("terminated"), None, EndReason.KILLED),
        (143, False, Outcome("terminated"), EndReason.STOPPED, EndReason.STOPPED),
        (0, False, Outcome("terminated", "result"), EndReason.STOPPED, EndReason.STOPPED),
        (137, False, Outcome(), EndReason.TIMEOUT, EndReason.TIMEOUT),
        (75, False, Outcome("lease-lost"), None, EndReason.LEASE_LOST),
        (75, False, Outcome(), None, EndReason.LEASE_LOST),
        (75, False, Outcome("lease-lost"), EndReason.STOPPED, EndReason.LEASE_LOST),
        (75, False, Outcome("exit"), None, EndReason.ERROR),
        # A grandchild was killed for its memory, and the bot went on.
        (0, True, Outcome("exit", "result", oom_kills=1), None, EndReason.FINISHED),
    ],
)
def test_the_reason(
    exit_code: int, oom_killed: bool, outcome: Outcome, stopped: EndReason | None, expected: EndReason
) -> None:
    assert end_reason(container(exit_code, oom_killed), outcome, stopped) is expected


@pytest.mark.parametrize(
    ("exit_code", "oom_killed", "outcome", "stopped", "expected"),
    [
        (137, False, Outcome("running"), None, EndReason.LEASE_LOST),
        (137, False, Outcome(), None, EndReason.LEASE_LOST),
        # The bot was killed, and not the init.
        (137, False, Outcome("exit"), None, EndReason.KILLED),
        (137, True, Outcome("running"), None, EndReason.OOM),
        (137, False, Outcome("running"), EndReason.STOPPED, EndReason.STOPPED),
        (143, False, Outcome("running"), None, EndReason.KILLED),
        (0, False, Outcome("running"), None, EndReason.FINISHED),
    ],
)
def test_the_reason_of_one_whose_keepalive_has_expired(
    exit_code: int, oom_killed: bool, outcome: Outcome, stopped: EndReason | None, expected: EndReason
) -> None:
    assert end_reason(container(exit_code, oom_killed), outcome, stopped, has_expired=True) is expected


FULL = Failure(FailureReason.HEAP_FULL, "out of memory")
RAISED = Failure(FailureReason.EXCEPTION, "no", "ValueError")
NO_FUNDS = Report("no funds", is_error=True)
TRADED = Report("traded")


NOTHING = Outcome()


def ended(reason: EndReason, outcome: Outcome = NOTHING, exit_code: int = 0, limits: Need | None = None) -> Ended:
    now = datetime.now(UTC)
    failure = failure_of(reason, exit_code, "", outcome)
    ended = replace(container(exit_code), limits=limits)
    return Ended(ended, exit_code, False, reason, now, now, failure=failure)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome("exit", "result"), None),
        (Outcome("terminated", "result"), None),
        # It returned nothing, or called `sys.exit(0)`.
        (Outcome("exit"), None),
        (Outcome("exit", "result", too_large=True), FailureReason.RESULT_TOO_LARGE),
        # The supervisor could not write its last note.
        (Outcome(), FailureReason.RESULT_LOST),
        (Outcome("running"), FailureReason.RESULT_LOST),
        (Outcome("exit", "error"), FailureReason.RESULT_LOST),
    ],
)
def test_a_run_that_finished_has_a_result_unless_it_cannot_be_read(
    outcome: Outcome, expected: FailureReason | None
) -> None:
    failure = without_result(ended(EndReason.FINISHED, outcome), outcome, timeout_seconds=5)

    assert (failure.reason if failure else None) is expected


@pytest.mark.parametrize(
    ("reason", "outcome", "failure_reason", "words"),
    [
        (EndReason.ERROR, Outcome("exit", "error", failure=RAISED), FailureReason.EXCEPTION, "ValueError: no"),
        # As a supervisor of an older version left it.
        (EndReason.ERROR, Outcome("exit", "error"), FailureReason.EXCEPTION, "main raised an error"),
        (EndReason.ERROR, Outcome("exit"), FailureReason.EXIT_CODE, "it ended with exit code 3"),
        (EndReason.ERROR, Outcome("exit", "written", report=NO_FUNDS), FailureReason.REPORTED, "no funds"),
        # Its result is not an error, or has no report.
        (EndReason.ERROR, Outcome("exit", "written", report=TRADED), FailureReason.EXIT_CODE, "it ended with exit"),
        (EndReason.ERROR, Outcome("exit", "written"), FailureReason.EXIT_CODE, "it ended with exit code 3"),
        # Only what it wrote, and not what main returned, is read for a code that is not zero.
        (EndReason.ERROR, Outcome("exit", "none", report=NO_FUNDS), FailureReason.EXIT_CODE, "it ended with exit"),
        (EndReason.STOPPED, Outcome("exit", "written", report=NO_FUNDS), FailureReason.INTERRUPTED, "it was stopped"),
        # Only an abort can be one for a full heap.
        (EndReason.ERROR, Outcome("exit", failure=FULL), FailureReason.EXIT_CODE, "it ended with exit code 3"),
        # A bot that writes the note itself is not believed about how it ended.
        (EndReason.ERROR, Outcome("exit", failure=RAISED), FailureReason.EXIT_CODE, "it ended with exit code 3"),
        (EndReason.OOM, Outcome("exit", "error", failure=RAISED), FailureReason.INTERRUPTED, "out of memory"),
        (EndReason.TIMEOUT, Outcome(), FailureReason.INTERRUPTED, "timed out after 5 s"),
        (EndReason.STOPPED, Outcome("exit", "result"), FailureReason.INTERRUPTED, "it was stopped before"),
    ],
)
def test_a_run_without_a_result_has_a_typed_reason(
    reason: EndReason, outcome: Outcome, failure_reason: FailureReason, words: str
) -> None:
    failure = without_result(ended(reason, outcome, exit_code=3), outcome, timeout_seconds=5)

    assert failure is not None
    assert failure.reason is failure_reason
    assert failure.summary.startswith(words)


def test_abort_for_a_full_heap_is_reported_as_such() -> None:
    assert failure_of(EndReason.ERROR, 134, "", Outcome("exit", failure=FULL)) == FULL
    assert failure_of(EndReason.ERROR, 134, "", Outcome("exit")) == Failure(
        FailureReason.EXIT_CODE, "it ended with exit code 134"
    )


def test_an_error_whose_text_names_the_limit_is_an_error() -> None:
    raised = Failure(FailureReason.EXCEPTION, "order size is larger than the limit", "ValueError")
    outcome = Outcome("exit", "error", failure=raised)

    assert without_result(ended(EndReason.ERROR, outcome, 1), outcome, timeout_seconds=5) == raised


@pytest.mark.parametrize(
    ("limits", "words"),
    [(Need(512 * MIB, 1.0), "it used more than its 512 MiB"), (None, "it used more memory than its limit")],
)
def test_the_out_of_memory_sentence_names_the_limit_and_the_settings(limits: Need | None, words: str) -> None:
    described = describe_end(ended(EndReason.OOM, limits=limits))

    assert words in described
    assert "raise config.resources.memoryMb or MEMORY_LIMIT_MB" in described


def test_the_description_of_an_error_ends_with_its_hint_in_one_line() -> None:
    failure = Failure(
        FailureReason.EXCEPTION, "no module\n  x", "ModuleNotFoundError", "install it with: pip install x"
    )
    end = replace(ended(EndReason.ERROR), failure=failure)

    assert describe_end(end) == "ModuleNotFoundError: no module x; install it with: pip install x"
