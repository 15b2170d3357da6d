"""A query and its answer as values."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus


class QueryFault(StrEnum):
    """Why a query has no answer of the entity's own code."""

    INVALID = "invalid"
    UNKNOWN = "unknown"
    NO_ENTRYPOINT = "no-entrypoint"
    QUESTION_TOO_LARGE = "question-too-large"
    TOO_MANY = "too-many"
    NO_ROOM = "no-room"
    MOVED = "moved"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    BAD_ANSWER = "bad-answer"
    ANSWER_TOO_LARGE = "answer-too-large"
    INTERNAL = "internal"

    @property
    def status(self) -> HTTPStatus:
        """The status of the HTTP answer."""
        return _STATUSES[self]


_STATUSES = {
    QueryFault.INVALID: HTTPStatus.BAD_REQUEST,
    QueryFault.UNKNOWN: HTTPStatus.NOT_FOUND,
    QueryFault.NO_ENTRYPOINT: HTTPStatus.CONFLICT,
    QueryFault.QUESTION_TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    QueryFault.TOO_MANY: HTTPStatus.TOO_MANY_REQUESTS,
    QueryFault.NO_ROOM: HTTPStatus.SERVICE_UNAVAILABLE,
    QueryFault.MOVED: HTTPStatus.SERVICE_UNAVAILABLE,
    QueryFault.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    QueryFault.TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT,
    QueryFault.CRASHED: HTTPStatus.BAD_GATEWAY,
    QueryFault.BAD_ANSWER: HTTPStatus.BAD_GATEWAY,
    QueryFault.ANSWER_TOO_LARGE: HTTPStatus.BAD_GATEWAY,
    QueryFault.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}


@dataclass(frozen=True)
class Query:
    """A question to one bot or schedule.

    Attributes:
        path: begins with a slash; the entity's own.
        parameters: a JSON object as text.
        timeout_seconds: the time that is left.
        segment_id: the segment of the entity; -1 until it is looked up.
    """

    entity_id: str
    path: str
    parameters: str
    timeout_seconds: float
    segment_id: int = -1


@dataclass(frozen=True)
class QueryAnswer:
    """A JSON object with ``status``. *fault*: why it is not an answer of the entity's own code; None when it is."""

    body: bytes
    fault: QueryFault | None = None

    @property
    def status(self) -> HTTPStatus:
        """The status of the HTTP answer; that of an error in the entity's own code is 200: it has answered."""
        return HTTPStatus.OK if self.fault is None else self.fault.status


Answerer = Callable[[Query], Awaitable[QueryAnswer]]
"""Answers a query; every failure is an answer with a fault."""


def failed(fault: QueryFault, message: str) -> QueryAnswer:
    """Return the answer to a query that failed for the reason *fault*; *message* is for users."""
    return QueryAnswer(json.dumps({"status": "error", "error": message}, ensure_ascii=False).encode(), fault)
