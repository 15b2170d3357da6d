"""Headers of every answer: no caching, no framing, no content sniffing."""

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
"""For pages: resources only from the same origin, and no frames."""


async def secure(request: web.Request, response: web.StreamResponse) -> None:
    """Add the missing headers to an answer. For ``on_response_prepare``."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    # Hide the versions of Python and aiohttp.
    response.headers["Server"] = "the0-runtime"
