"""Read the request `POST /query` of the platform: ``{"bot_id", "query_path", "params", "timeout_sec"}``. Pure."""

import json
import math

from libs.core.hostile_json import Bounds, Fault, Refused, parse
from libs.core.queries.messages import Query, QueryFault

BODY_BYTES = 64 * 1024
"""The maximum size of a request."""
_BOUNDS = Bounds(bytes=BODY_BYTES, depth=32, values=10_000)
_ID_CHARACTERS, _PATH_CHARACTERS = 1000, 1000


class RequestRefused(Exception):
    """The request is not a query; the message is for its sender."""

    def __init__(self, fault: QueryFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


def read_query(body: bytes, timeout_seconds: float) -> Query:
    """Return the query in *body*.

    Args:
        timeout_seconds: the time limit of a query without one, and the longest.

    Raises:
        RequestRefused: a field is missing or wrong.
    """
    found = parse(body, _BOUNDS)
    if isinstance(found, Refused):
        fault = QueryFault.QUESTION_TOO_LARGE if found.fault is Fault.BYTES else QueryFault.INVALID
        raise RequestRefused(fault, f"the request {found}")
    request = found.value
    if not isinstance(request, dict):
        raise _invalid("the request must be a JSON object with bot_id and query_path")
    entity_id, path = request.get("bot_id"), request.get("query_path")
    if not isinstance(entity_id, str) or not 0 < len(entity_id) <= _ID_CHARACTERS:
        raise _invalid("bot_id must be the id of a bot or schedule")
    if not isinstance(path, str) or not 0 < len(path) <= _PATH_CHARACTERS or not path.isprintable():
        raise _invalid(f"query_path must be a path such as /status, of at most {_PATH_CHARACTERS} characters")
    parameters = request.get("params")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise _invalid("params must be a JSON object")
    asked = request.get("timeout_sec")
    if asked is None:
        asked = timeout_seconds
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not math.isfinite(asked) or asked <= 0:
        raise _invalid("timeout_sec must be a number of seconds above 0")
    try:
        text = json.dumps(parameters, allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise _invalid("params must not contain NaN or an infinity, which JSON lacks") from None
    return Query(
        entity_id=entity_id,
        path=path if path.startswith("/") else f"/{path}",
        parameters=text,
        timeout_seconds=min(float(asked), timeout_seconds),
    )


def _invalid(message: str) -> RequestRefused:
    return RequestRefused(QueryFault.INVALID, message)
