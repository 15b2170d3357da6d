"""Errors as HTTP answers: a status and a message that names the cause and the remedy."""

from dataclasses import dataclass

from aiohttp import web


@dataclass(frozen=True)
class ErrorAnswer:
    """The error for users. *leader* is the address of the leader when this master is on standby."""

    error: str
    leader: str | None = None


class Refused(Exception):
    """Answers a request with an error. *leader* is the address to use instead."""

    def __init__(self, status: int, message: str, leader: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.leader = leader


class NotStarted(Refused):
    """The requested data is not known yet."""

    def __init__(self, role: str) -> None:
        super().__init__(503, f"this {role} is starting; /readyz shows what it waits for")


def error_answer(status: int, message: str, leader: str | None = None) -> web.Response:
    """Return an error as JSON; the leader's field is omitted when there is none."""
    answer = {"error": message} if leader is None else {"error": message, "leader": leader}
    return web.json_response(answer, status=status)
