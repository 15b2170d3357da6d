"""What is read of a result."""

import json

import pytest

from libs.docker_runner.containers.reported import REPORT_BYTES, Report, report_in


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"status": "success", "message": "traded"}, Report("traded")),
        ({"status": "error", "message": "no funds", "data": {"a": [1]}}, Report("no funds", is_error=True)),
        ({"message": "no status"}, Report("no status")),
        ({"status": ["error"], "message": "x"}, Report("x")),
        ({"status": "error", "message": "x" * 5000}, Report("x" * 2000, is_error=True)),
        ({"status": "error", "message": "a\ud800b"}, Report("a?b", is_error=True)),
        ({"status": "error"}, None),
        ({"status": "error", "message": " \n"}, None),
        ({"status": "error", "message": 5}, None),
        (["message"], None),
        ("message", None),
        (None, None),
    ],
)
def test_message_of_an_object_is_the_report(result: object, expected: Report | None) -> None:
    assert report_in(json.dumps(result).encode()) == expected


@pytest.mark.parametrize(
    "text",
    [b"", b'{"message": "x"', b'{"message": "\xff"}', b"[" * 5000, b'{"message": "x", "n": ' + b"9" * 5000 + b"}"],
)
def test_text_that_is_no_json_has_no_report(text: bytes) -> None:
    assert report_in(text) is None


def test_large_result_is_not_searched() -> None:
    text = json.dumps({"message": "x", "data": "y" * REPORT_BYTES}).encode()

    assert report_in(text) is None
