import json

import pytest

from libs.core.queries.messages import QueryAnswer, QueryFault
from libs.docker_runner.queries.answers import answer_of


@pytest.mark.parametrize(
    "body", [b'{"status": "ok", "data": [1, "NaN"]}', b'{"status":"error","error":"no","available":[]}']
)
def test_answer_of_the_bot_is_passed_on(body: bytes) -> None:
    answer = answer_of(body, 1000)

    assert answer.fault is None
    assert json.loads(answer.body) == json.loads(body)


def test_numbers_that_json_lacks_become_null() -> None:
    assert answer_of(b'{"status": "ok", "data": NaN}', 1000) == QueryAnswer(b'{"status":"ok","data":null}')


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'{"data": 1}', b'{"status": "fine"}', b'{"status": ["ok"]}', b"[" * 900, b"\xff", b"<html>"],
)
def test_what_is_no_answer_is_a_fault(body: bytes) -> None:
    assert answer_of(body, 1000).fault is QueryFault.BAD_ANSWER


def test_answer_above_the_limit_is_a_fault() -> None:
    assert answer_of(b'{"status": "ok", "data": "' + b"x" * 1000 + b'"}', 1000).fault is QueryFault.BAD_ANSWER
