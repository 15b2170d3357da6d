"""The operations of ``/api/v1`` with path, parameters and answer; both the routes and their description are generated
from them, so that they always agree.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from libs.core.api.answers import plain
from libs.core.api.errors import Refused, error_answer
from libs.core.api.parameters import BadParameter, Parameter, values_of
from libs.core.api.paths import DESCRIPTION, PREFIX
from libs.core.errors import Retryable

ANSWER_SECONDS = 5.0
"""Time limit of an answer that is not a stream."""


@dataclass(frozen=True)
class Asked:
    """A request to an operation: its parameters by name, and the entity's id if the path has one."""

    request: web.Request
    values: dict[str, Any]

    @property
    def entity_id(self) -> str:
        """The id in the path, decoded."""
        return self.request.match_info["id"]


Answer = Callable[[Asked], Awaitable[object]]
"""Returns a value to be sent as JSON, or a response that it has already sent."""


@dataclass(frozen=True)
class Operation:
    """One GET operation.

    Attributes:
        path: relative to the prefix, such as ``/entities/{id}``.
        result: the type of the value; None for plain text.
        bounded: whether it must end within seconds; a stream need not.
        guarded: whether it requires the process's token.
    """

    path: str
    name: str
    summary: str
    answer: Answer
    result: type | None
    parameters: Sequence[Parameter] = ()
    errors: Sequence[int] = (503,)
    bounded: bool = True
    guarded: bool = False


def routes(operations: Sequence[Operation], describe: Callable[[], object]) -> list[web.RouteDef]:
    """Return the routes of all operations and of their description."""

    async def description(request: web.Request) -> web.Response:
        return json_answer(await asyncio.to_thread(describe))

    return [web.get(DESCRIPTION, description), *(_route(operation) for operation in operations)]


def json_answer(value: object, status: int = 200) -> web.Response:
    """Return *value* as JSON."""
    return web.json_response(plain(value), status=status)


def path_of(operation: Operation) -> str:
    """Return the complete path as in the description."""
    return f"{PREFIX}{operation.path}"


async def or_error(answer: Awaitable[web.StreamResponse]) -> web.StreamResponse:
    """Return the answer of *answer*, or its error as JSON."""
    try:
        return await answer
    except BadParameter as error:
        return error_answer(400, str(error))
    except Refused as refused:
        return error_answer(refused.status, str(refused), refused.leader)
    except Retryable as fault:
        return error_answer(503, str(fault))
    except TimeoutError:
        return error_answer(503, f"MongoDB did not answer within {ANSWER_SECONDS:g} s")


def _route(operation: Operation) -> web.RouteDef:
    async def answer(request: web.Request) -> web.StreamResponse:
        values = values_of(operation.parameters, _single(request.query.items()))
        async with asyncio.timeout(ANSWER_SECONDS if operation.bounded else None):
            result = await operation.answer(Asked(request, values))
        return result if isinstance(result, web.StreamResponse) else json_answer(result)

    async def handle(request: web.Request) -> web.StreamResponse:
        return await or_error(answer(request))

    # An id may contain any character, braces too; a slash is sent as %2F, which differs from those of the path.
    return web.get(path_of(operation).replace("{id}", "{id:[^/]+}"), handle)


def _single(query: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in query:
        if name in found:
            raise BadParameter(name[:100], "given only once")
        found[name] = value
    return found
