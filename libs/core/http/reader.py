"""The name of who sends a request, for the audit record."""

from urllib.parse import quote, unquote

from aiohttp import web

HEADER = "The0-Reader"
"""Beside the token of a process: on whose behalf it is asked."""

WHO: web.RequestKey[str] = web.RequestKey("who", str)
"""Who sends a request, as far as its access is proven."""

_CHARACTERS = 200


def header_of(who: str) -> dict[str, str]:
    """Return the header with which a request to a worker names *who*."""
    return {HEADER: quote(who[:_CHARACTERS], safe="@:")} if who else {}


def reader_in(request: web.Request) -> str:
    """Return the name in the header of a request with the token of a process."""
    return unquote(request.headers.get(HEADER, ""))[:_CHARACTERS]
