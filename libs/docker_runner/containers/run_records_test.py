"""What the record of a run says about its end."""

from datetime import UTC, datetime

import pytest

from libs.core.run_record import RunRecord
from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, from_labels
from libs.docker_runner.containers.failure import Failure, FailureReason
from libs.docker_runner.containers.run_records import Recorder, of_container, with_end

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = {"runtime.id": "b1", "runtime.run-id": "r1", "runtime.memory-bytes": str(64 << 20)}


def record_of(reason: EndReason, failure: Failure | None = None, message: str | None = None) -> RunRecord:
    container = from_labels(LABELS, container_id="c", name="n", state=ContainerState.EXITED)
    ended = Ended(container, 1, False, reason, NOW, NOW, failure=failure)
    record = of_container(container, Recorder("w", "h"), NOW)
    return with_end(record, ended, reason=str(reason), at=NOW, message=message)


def test_an_exception_is_recorded_with_its_type_its_message_and_the_hint() -> None:
    record = record_of(EndReason.ERROR, Failure(FailureReason.EXCEPTION, "no funds", "ValueError", "pay in"))

    assert (record.reason, record.failure) == ("error", "exception")
    assert (record.error_type, record.error_message, record.hint) == ("ValueError", "no funds", "pay in")
    assert record.message == "ValueError: no funds; pay in"


def test_what_is_not_known_of_an_error_is_none() -> None:
    record = record_of(EndReason.ERROR, Failure(FailureReason.EXIT_CODE, "it ended with exit code 1"))

    assert (record.failure, record.error_type, record.hint) == ("exit-code", None, None)


@pytest.mark.parametrize("reason", [EndReason.FINISHED, EndReason.STOPPED, EndReason.KILLED, EndReason.MISSING])
def test_an_end_that_is_no_error_has_no_message(reason: EndReason) -> None:
    record = record_of(reason)

    assert (record.failure, record.message) == (None, None)


def test_the_end_for_lack_of_memory_names_the_limit() -> None:
    assert "its 64 MiB; raise config.resources.memoryMb" in (record_of(EndReason.OOM).message or "")


def test_a_message_of_the_service_comes_first() -> None:
    failure = Failure(FailureReason.EXCEPTION, "no funds", "ValueError")

    assert record_of(EndReason.ERROR, failure, "as the service says").message == "as the service says"
