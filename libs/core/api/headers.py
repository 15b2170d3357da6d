"""The headers of every answer: nothing of it is to be kept, framed, or taken for something that it is not."""

from aiohttp import web

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
PAGE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
}
"""For a page: what it needs, all of it from where it came itself, and nothing inside it."""


async def secure(request: web.Request, response: web.StreamResponse) -> None:
    """Add them to what an answer has already. For ``on_response_prepare``."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    # In place of the versions of Python and aiohttp.
    response.headers["Server"] = "the0-runtime"
