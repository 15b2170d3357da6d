import json

import pytest

from libs.core.queries.messages import Query, QueryFault
from libs.core.queries.request import BODY_BYTES, RequestRefused, read_query


def request(**fields: object) -> bytes:
    return json.dumps({"bot_id": "b", "query_path": "/status", **fields}).encode()


def test_request_of_the_platform_is_read() -> None:
    found = read_query(request(params={"symbol": "BTC/USD", "limit": 10}, timeout_sec=5), 30.0)

    assert found == Query("b", "/status", '{"symbol":"BTC/USD","limit":10}', 5.0)


@pytest.mark.parametrize("fields", [{}, {"params": None, "timeout_sec": None}])
def test_request_without_parameters_and_time_limit_gets_the_defaults(fields: dict[str, object]) -> None:
    assert read_query(request(**fields), 30.0) == Query("b", "/status", "{}", 30.0)


def test_time_limit_above_the_longest_is_lowered() -> None:
    assert read_query(request(timeout_sec=3600), 30.0).timeout_seconds == 30.0


def test_path_without_slash_gets_one() -> None:
    assert read_query(request(query_path="status"), 30.0).path == "/status"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the request is not JSON from byte 0 on"),
        (b"[]", "the request must be a JSON object with bot_id and query_path"),
        (b"[" * 1000, "the request is nested more than 32 levels deep"),
        (request(bot_id=7), "bot_id must be the id of a bot or schedule"),
        (request(bot_id=""), "bot_id must be the id of a bot or schedule"),
        (request(query_path=""), "query_path must be a path such as /status, of at most 1000 characters"),
        (request(query_path="/a\r\nHost: x"), "query_path must be a path such as /status, of at most 1000 characters"),
        (request(params=[1]), "params must be a JSON object"),
        (request(params={"a": float("nan")}), "params must not contain NaN or an infinity, which JSON lacks"),
        (request(timeout_sec=True), "timeout_sec must be a number of seconds above 0"),
        (request(timeout_sec=0), "timeout_sec must be a number of seconds above 0"),
        (request(timeout_sec="5"), "timeout_sec must be a number of seconds above 0"),
        (request(timeout_sec=float("inf")), "timeout_sec must be a number of seconds above 0"),
    ],
)
def test_malformed_request_is_refused_with_its_field(body: bytes, message: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        read_query(body, 30.0)

    assert (str(refused.value), refused.value.fault) == (message, QueryFault.INVALID)


def test_large_request_is_refused_as_too_large() -> None:
    with pytest.raises(RequestRefused) as refused:
        read_query(request(params={"a": "x" * BODY_BYTES}), 30.0)

    assert refused.value.fault is QueryFault.QUESTION_TOO_LARGE
