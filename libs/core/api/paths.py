"""The prefix ``/api/v1``, and the encoding of ids in its paths."""

from urllib.parse import quote

PREFIX = "/api/v1"
DESCRIPTION = f"{PREFIX}/openapi.json"


def encoded(entity_id: str) -> str:
    """Return an id as one path segment, with slashes and dot segments encoded."""
    return quote(entity_id, safe="").replace(".", "%2E")
