"""What entities' documents tell of their states, as MongoDB computes it, so that no config is read."""

from collections.abc import Mapping
from typing import Any

from libs.core.store.client import Document
from libs.core.store.holds import Hold
from libs.core.store.ownership import Ownership
from libs.core.store.shown_state import StoredStatus

_SAYS_ENABLED = {"$ifNull": ["$enabled", "$config.enabled"]}
_OFF = [False, 0, "false", "0"]
_ENABLED = {
    "$not": [
        {
            "$in": [
                {
                    "$cond": [
                        {"$eq": [{"$type": _SAYS_ENABLED}, "string"]},
                        {"$toLower": {"$trim": {"input": _SAYS_ENABLED}}},
                        _SAYS_ENABLED,
                    ]
                },
                _OFF,
            ]
        }
    ]
}
"""The rule of :func:`libs.core.store.entities.is_enabled`."""


def _text_at(path: str) -> Document:
    return {"$convert": {"input": path, "to": "string", "onError": "", "onNull": ""}}


_WORD = _text_at("$status.state")
_IS_PAUSED = {"$and": [{"$ne": [{"$ifNull": ["$scheduler.paused", None]}, None]}, {"$in": [_WORD, ["", "waiting"]]}]}

STATUS_FIELDS: Document = {
    "enabled": _ENABLED,
    "state": {"$cond": [_IS_PAUSED, "paused", _WORD]},
    "told_by": _text_at("$status.worker"),
}
"""To be set in a pipeline; :func:`stored_status` reads them."""


def stored_status(fields: Mapping[str, Any], hold: Hold | None = None) -> StoredStatus:
    """What a document tells that has STATUS_FIELDS."""
    return StoredStatus(str(fields["state"]), str(fields["told_by"]), bool(fields["enabled"]), hold)


def owner_of(owners: Mapping[int, Ownership], segment: object) -> Ownership | None:
    """Who has the segment that a document names; None when it names none that is known."""
    number = whole(segment)
    return owners.get(number) if number is not None else None


def number(value: object) -> float | None:
    """A number; None for what is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def whole(value: object) -> int | None:
    """A whole number; None for what is no number."""
    found = number(value)
    return int(found) if found is not None else None
