"""What stands in `analysis.json` for whatever a backtest returned."""

from dataclasses import replace
from pathlib import Path

import pytest

from libs.core.hostile_json import Kind
from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, RunOutcome, from_labels
from libs.docker_runner.containers.returned import Payload, Returned
from libs.docker_runner.runs.attempt import AttemptResult
from services.backtest_runner.result_spool import ResultSpool, SpooledResult


def put(folder: Path, returned: Returned | None, result: AttemptResult | None = None) -> SpooledResult:
    spool = ResultSpool(folder / "spool")
    spool.open()
    container = from_labels({}, container_id="c", name="n", state=ContainerState.EXITED)
    ended = Ended(container, 0, False, EndReason.FINISHED, None, None)
    outcome = RunOutcome(ended, returned, None, folder / "output")
    return spool.put("run", replace(result or AttemptResult(EndReason.FINISHED), outcome=outcome))


@pytest.mark.parametrize(
    ("kind", "text", "stored"),
    [
        (Kind.OBJECT, b'{"a":  [1.50, "\\ud800"]}', b'{"a":  [1.50, "\\ud800"]}'),
        (Kind.ARRAY, b"[1, {}]", b'{"results": [1, {}]}'),
        (Kind.NULL, b"null", b"{}"),
    ],
)
def test_a_result_is_stored_as_the_bytes_that_it_is(tmp_path: Path, kind: Kind, text: bytes, stored: bytes) -> None:
    assert put(tmp_path, Returned(kind, Payload(text))).analysis.read_bytes() == stored


def test_nothing_is_stored_as_an_empty_object(tmp_path: Path) -> None:
    assert put(tmp_path, None).analysis.read_bytes() == b"{}"


def test_a_result_in_a_file_is_copied_without_its_head_and_the_file_goes(tmp_path: Path) -> None:
    file = tmp_path / "result"
    file.write_bytes(b"head" + b"[" + b" " * 3_000_000 + b"]")

    kept = put(tmp_path, Returned(Kind.ARRAY, Payload(path=file, begin=4)))

    assert kept.analysis.read_bytes() == b'{"results": [' + b" " * 3_000_000 + b"]}"
    assert not file.exists()


def test_a_failure_is_stored_as_the_web_front_reads_it_whatever_was_returned(tmp_path: Path) -> None:
    file = tmp_path / "result"
    file.write_bytes(b"4.5")

    kept = put(tmp_path, Returned(Kind.NUMBER, Payload(path=file)), AttemptResult("result", "a number \ud800"))

    assert kept.analysis.read_bytes() == b'{"status":"error","message":"a number ?","error":"a number ?"}'
    assert not file.exists()
