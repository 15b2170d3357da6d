"""Errors as answers: a status and a sentence that says what is wrong and what to do."""

from dataclasses import dataclass

from aiohttp import web


@dataclass(frozen=True)
class ErrorAnswer:
    """What went wrong, for people. *leader* is where to ask instead, when this master does not lead."""

    error: str
    leader: str | None = None


class Refused(Exception):
    """Answers a request with an error. *leader* is where to ask instead."""

    def __init__(self, status: int, message: str, leader: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.leader = leader


class NotStarted(Refused):
    """What was asked for is not known yet."""

    def __init__(self, role: str) -> None:
        super().__init__(503, f"this {role} is starting; /readyz shows what it waits for")


def error_answer(status: int, message: str, leader: str | None = None) -> web.Response:
    """An error as programs get it; without a leader the field is left out."""
    answer = {"error": message} if leader is None else {"error": message, "leader": leader}
    return web.json_response(answer, status=status)
