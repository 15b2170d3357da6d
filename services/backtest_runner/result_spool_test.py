"""What stands in `analysis.json` for each kind of returned value."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from libs.core.hostile_json import Kind
from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, RunOutcome, from_labels
from libs.docker_runner.containers.returned import Payload, Returned
from libs.docker_runner.runs.attempt import AttemptResult
from services.backtest_runner.result_spool import ANALYSIS, INLINE_BYTES, ResultSpool
from services.backtest_runner.state import Outcome


def put(folder: Path, returned: Returned | None, result: AttemptResult | None = None) -> Outcome:
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
    assert put(tmp_path, Returned(kind, Payload(text))).analysis == stored


def test_nothing_is_stored_as_an_empty_object(tmp_path: Path) -> None:
    assert put(tmp_path, None).analysis == b"{}"


def test_a_result_in_a_file_is_copied_without_its_head_and_the_file_goes(tmp_path: Path) -> None:
    file = tmp_path / "result"
    file.write_bytes(b"head" + b"[" + b" " * 3_000_000 + b"]")

    kept = put(tmp_path, Returned(Kind.ARRAY, Payload(path=file, begin=4)))

    assert kept.analysis is None
    stored = (ResultSpool(tmp_path / "spool").folder("run") / ANALYSIS).read_bytes()
    assert stored == b'{"results": [' + b" " * 3_000_000 + b"]}"
    assert not file.exists()


def test_a_failure_is_stored_as_the_web_front_reads_it_whatever_was_returned(tmp_path: Path) -> None:
    file = tmp_path / "result"
    file.write_bytes(b"4.5")

    kept = put(tmp_path, Returned(Kind.NUMBER, Payload(path=file)), AttemptResult("result", "a number \ud800"))

    assert kept.analysis == b'{"status":"error","message":"a number ?","error":"a number ?"}'
    assert not file.exists()


@pytest.mark.parametrize("size", [INLINE_BYTES, INLINE_BYTES + 1])
def test_stored_end_is_returned_again_and_small_content_is_part_of_it(tmp_path: Path, size: int) -> None:
    kept = put(tmp_path, Returned(Kind.OBJECT, Payload(b'{"a":"' + b"x" * (size - 8) + b'"}')))

    assert ResultSpool(tmp_path / "spool").get("run") == kept
    assert kept.success
    assert (kept.analysis is not None) == (size <= INLINE_BYTES)
    assert kept.logs == b""


def test_end_spooled_by_an_earlier_version_is_read(tmp_path: Path) -> None:
    folder = ResultSpool(tmp_path).folder("run")
    folder.mkdir()
    (folder / "analysis.json").write_bytes(b"{}")
    (folder / "logs.txt").write_bytes(b"printed")
    said = '{"reason": "timeout", "error": "timeout: too long", "again": false, "ended_at": "2026-01-02T03:04:05Z"}'
    (folder / "verdict.json").write_text(said)

    ended_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    expected = Outcome("run", False, "timeout", "timeout: too long", ended_at, b"{}", b"printed")
    assert ResultSpool(tmp_path).get("run") == expected


def test_run_without_a_complete_end_has_none(tmp_path: Path) -> None:
    put(tmp_path, None)
    spool = ResultSpool(tmp_path / "spool")
    (spool.folder("run") / "verdict.json").unlink()

    assert spool.get("run") is None
    assert spool.get("another") is None
