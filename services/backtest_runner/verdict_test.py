"""What a person reads of a backtest that came to nothing."""

from pathlib import Path
from typing import Any

import pytest

from libs.core.api.answers import FAILURES
from libs.core.errors import UserError
from libs.core.hostile_json import Kind
from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, RunOutcome, from_labels
from libs.docker_runner.containers.failure import Failure, FailureReason
from libs.docker_runner.containers.returned import Payload, Returned
from libs.docker_runner.errors import ArchiveRejected, CodeMissing, DataMissing, UnknownRuntime
from libs.docker_runner.runs.attempt import AttemptResult
from services.backtest_runner.objects import analysis_key, logs_key
from services.backtest_runner.verdict import given_up, rejection, verdict_of


def outcome(reason: EndReason, *, result: Returned | None = None, failure: Failure | None = None) -> RunOutcome:
    container = from_labels({}, container_id="c", name="n", state=ContainerState.EXITED)
    return RunOutcome(Ended(container, 1, False, reason, None, None), result, failure, Path("/none"))


def returned(kind: Kind, text: str = "") -> Returned:
    return Returned(kind, Payload(text.encode()))


INTERRUPTED = Failure(FailureReason.INTERRUPTED, "as the end was described")


def verdict(reason: EndReason, **more: Any) -> AttemptResult:
    return verdict_of(outcome(reason, **more), timeout_seconds=300, result_bytes=64 << 20)


@pytest.mark.parametrize("result", [None, returned(Kind.NULL), returned(Kind.OBJECT), returned(Kind.ARRAY)])
def test_an_object_a_list_and_nothing_are_results(result: Returned | None) -> None:
    assert verdict(EndReason.FINISHED, result=result).succeeded


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (returned(Kind.NUMBER, "4.5"), "a bare number: 4.5"),
        (returned(Kind.BOOLEAN, "true"), "a bare boolean: true"),
        (returned(Kind.STRING, '"' + "x" * 100 + '"'), f'a bare string: "{"x" * 59}; a backtest must'),
    ],
)
def test_anything_else_is_none_and_is_named(result: Returned, words: str) -> None:
    found = verdict(EndReason.FINISHED, result=result)

    assert words in found.message
    assert (found.reason, found.again, found.succeeded) == ("result", False, False)


def test_exception_is_reported_as_in_its_traceback() -> None:
    found = verdict(EndReason.ERROR, failure=Failure(FailureReason.EXCEPTION, "no prices", "ValueError"))

    assert (found.reason, found.message) == ("exception", "exception: ValueError: no prices")


@pytest.mark.parametrize(
    "text",
    [
        "order size is larger than the limit",
        "its result is larger than the limit",
        "it ended with exit code 3",
        "out of memory",
        "timed out after 300 s",
    ],
)
def test_the_text_of_an_exception_decides_nothing(text: str) -> None:
    found = verdict(EndReason.ERROR, failure=Failure(FailureReason.EXCEPTION, text, "ValueError"))

    assert (found.reason, found.message) == ("exception", f"exception: ValueError: {text}")


def test_the_hint_follows_the_exception() -> None:
    failure = Failure(FailureReason.EXCEPTION, "No module named 'x'", "ModuleNotFoundError", "pip install x")

    assert verdict(EndReason.ERROR, failure=failure).message.endswith("No module named 'x'; pip install x")


DEEP = Failure(FailureReason.RESULT_TOO_DEEP, "what main returned is nested more than 100 levels deep")
LARGE = Failure(FailureReason.RESULT_TOO_LARGE, "any text")


@pytest.mark.parametrize(
    ("reason", "failure", "expected", "words"),
    [
        (EndReason.TIMEOUT, INTERRUPTED, "timeout", "longer than 300 s (BATCH_TIMEOUT)"),
        (EndReason.OOM, INTERRUPTED, "oom", "as the end was described"),
        (EndReason.ERROR, Failure(FailureReason.EXIT_CODE, "exit code 3"), "error", "exit code 3"),
        (EndReason.ERROR, Failure(FailureReason.REPORTED, "no prices"), "error", "no prices"),
        (EndReason.FINISHED, LARGE, "result", "larger than 64 MiB of JSON (BOT_RESULT_MB)"),
        # As the init reports it, which turns such a result into an error.
        (EndReason.ERROR, LARGE, "result", "larger than 64 MiB of JSON (BOT_RESULT_MB)"),
        (EndReason.FINISHED, DEEP, "result", "result: what main returned is nested more than 100 levels deep"),
        (EndReason.FINISHED, Failure(FailureReason.RESULT_TOO_MANY_VALUES, "has"), "result", "result: has"),
        (EndReason.FINISHED, Failure(FailureReason.RESULT_TOO_COMPLEX, "takes"), "result", "result: takes"),
        (
            EndReason.ERROR,
            Failure(FailureReason.HEAP_FULL, "out of memory", hint="raise it"),
            "error",
            "memory; raise it",
        ),
        (EndReason.ERROR, Failure(FailureReason.SIGNATURE, "call main(id, config)"), "exception", "main(id, config)"),
    ],
)
def test_other_ends_are_reported_and_not_retried(
    reason: EndReason, failure: Failure, expected: str, words: str
) -> None:
    found = verdict(reason, failure=failure)

    assert found.reason == expected
    assert words in found.message
    assert not found.again


@pytest.mark.parametrize("reason", [EndReason.LEASE_LOST, EndReason.KILLED, EndReason.MISSING, EndReason.STOPPED])
def test_what_was_not_its_fault_is_tried_again(reason: EndReason) -> None:
    found = verdict(reason, failure=INTERRUPTED)

    assert (found.reason, found.again, found.succeeded) == (reason, True, False)
    assert found.message


def test_a_result_that_this_host_lost_is_tried_for_again() -> None:
    found = verdict(EndReason.FINISHED, failure=Failure(FailureReason.RESULT_LOST, "lost"))

    assert (found.reason, found.message, found.again) == ("result", "result: lost", True)


def test_abandoned_backtest_reports_its_number_of_attempts() -> None:
    found = given_up(verdict(EndReason.KILLED, failure=INTERRUPTED), 4)

    assert found.message.startswith("failed after 4 attempts: ")


def test_one_that_is_given_up_keeps_its_reason_and_is_not_tried_again() -> None:
    found = given_up(verdict(EndReason.KILLED, failure=INTERRUPTED), 1)

    error = "failed after one attempt: it was killed by a signal"
    assert found == AttemptResult("killed", error, at=found.at)


def test_verdict_that_no_attempt_changes_is_reported_unchanged() -> None:
    found = verdict(EndReason.TIMEOUT, failure=INTERRUPTED)

    assert given_up(found, 3) == found


@pytest.mark.parametrize("reason", [FailureReason.RESULT_TOO_DEEP, FailureReason.EXIT_CODE, FailureReason.EXCEPTION])
def test_error_of_any_length_is_cut_for_people(reason: FailureReason) -> None:
    assert len(verdict(EndReason.ERROR, failure=Failure(reason, "x" * 10_000, "E")).message) == 4000


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (CodeMissing("bots", "a.zip"), "code-missing", "missing code"),
        (DataMissing("prices"), "data-missing", "missing data set 'prices'"),
        (ArchiveRejected("a.zip", "../x", "leaves the folder"), "bad-archive", "bad archive"),
        (UnknownRuntime("cobol", ["python3.11"]), "unknown-runtime", "unknown runtime 'cobol'"),
        (UserError("custom.filePath is missing"), "rejected", "custom.filePath is missing"),
    ],
)
def test_backtest_that_cannot_start_reports_the_reason(error: UserError, reason: str, words: str) -> None:
    found = rejection(error)

    assert (found.reason, found.again, found.succeeded) == (reason, False, False)
    assert words in found.message


@pytest.mark.parametrize(
    ("backtest_id", "key"),
    [("b1", "b1/analysis.json"), ("a/b c", "a/b c/analysis.json"), ("../x", "%2E%2E/x/analysis.json")],
)
def test_results_lie_below_the_id(backtest_id: str, key: str) -> None:
    assert analysis_key(backtest_id) == key
    assert logs_key(backtest_id) == key.replace("analysis.json", "logs.txt")


@pytest.mark.parametrize(
    "found",
    [
        *(verdict(reason, failure=INTERRUPTED) for reason in EndReason if reason is not EndReason.STOPPED),
        verdict(EndReason.FINISHED, result=returned(Kind.NUMBER, "4.5")),
        verdict(EndReason.FINISHED, failure=Failure(FailureReason.RESULT_TOO_LARGE)),
        *(
            rejection(error)
            for error in (CodeMissing("b", "k"), DataMissing("d"), ArchiveRejected("k", "e", "r"), UserError("x"))
        ),
    ],
)
def test_failed_backtest_is_among_the_failures(found: AttemptResult) -> None:
    assert found.succeeded or found.reason in FAILURES
