import json
from http import HTTPStatus

import pytest

from libs.core.queries.messages import Query, QueryAnswer, QueryFault, failed
from libs.core.queries.wire import answer_from_wire, answer_to_wire, query_from_wire, query_to_wire
from proto.runtime.v1 import coordination_pb2 as pb


def test_query_survives_the_wire() -> None:
    query = Query("bot", "/a", '{"ü": 1}', 1.5, segment_id=7)

    assert query_from_wire(query_to_wire(query, b"id")) == query


@pytest.mark.parametrize("answer", [QueryAnswer(b'{"status": "ok"}'), failed(QueryFault.TIMEOUT, "slow")])
def test_answer_survives_the_wire(answer: QueryAnswer) -> None:
    assert answer_from_wire(answer_to_wire(answer, b"id")) == answer


def test_fault_of_a_newer_worker_is_an_internal_error() -> None:
    found = answer_from_wire(pb.QueryAnswer(fault="of-the-future", body=b"{}"))

    assert found == QueryAnswer(b"{}", QueryFault.INTERNAL)


def test_failure_has_the_form_of_an_answer() -> None:
    answer = failed(QueryFault.UNKNOWN, 'there is no bot "ö"')

    assert json.loads(answer.body) == {"status": "error", "error": 'there is no bot "ö"'}


@pytest.mark.parametrize("fault", list(QueryFault))
def test_each_fault_has_the_status_of_an_error(fault: QueryFault) -> None:
    assert failed(fault, "").status >= HTTPStatus.BAD_REQUEST


def test_error_of_the_bots_own_code_is_an_answer() -> None:
    assert QueryAnswer(b'{"status": "error"}').status == HTTPStatus.OK
