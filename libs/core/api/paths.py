"""Where ``/api/v1`` is, and how an id stands in a path of it."""

from urllib.parse import quote

PREFIX = "/api/v1"
DESCRIPTION = f"{PREFIX}/openapi.json"


def encoded(entity_id: str) -> str:
    """An id as one segment of a path: slashes, and the dots that would lead elsewhere, encoded."""
    return quote(entity_id, safe="").replace(".", "%2E")
