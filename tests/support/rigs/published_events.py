"""An entity's events as a stream published them, one per second, for tests of stores."""

from collections.abc import Mapping
from types import MappingProxyType

from libs.core.store.history import EntityEvent, EventKind, Stamp

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
"""The start of the stream, in nanoseconds since 1970."""


def event(
    kind: EventKind,
    position: int,
    entity_id: str = "x",
    /,
    *,
    made_at: int | None = None,
    published_at: int | None = None,
    stream: int = START,
    content: Mapping[str, object] = MappingProxyType({}),
) -> EntityEvent:
    """Return the event published at *position*, a microsecond after its creation; *content* extends its content."""
    published_at = published_at if published_at is not None else START + position * SECOND
    stamp = Stamp.of(
        published_at,
        made_at=None if kind is EventKind.DELETED else made_at if made_at is not None else published_at - 1000,
        stream=stream,
        sequence=position,
    )
    whole: dict[str, object] = {} if kind is EventKind.DELETED else {"config": {"n": position}, "custom": {}}
    return EntityEvent(entity_id, kind, stamp, {**whole, **content})
