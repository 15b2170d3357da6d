"""The stored form of an event's stamp."""

from collections.abc import Mapping

from libs.core.store.client import Document
from libs.core.store.history import Stamp


def stamp_fields(stamp: Stamp) -> Document:
    """Return *stamp* as stored."""
    return {
        "made_at": stamp.made_at,
        "made_by": stamp.made_by,
        "published_at": stamp.published_at,
        "stream": stamp.stream,
        "sequence": stamp.sequence,
    }


def stamp_from(fields: Mapping[str, int]) -> Stamp:
    """Return the stamp stored as *fields*."""
    names = ("made_at", "made_by", "published_at", "stream", "sequence")
    made_at, made_by, published_at, stream, sequence = (int(fields[name]) for name in names)
    return Stamp(made_at, made_by, published_at, stream, sequence)
