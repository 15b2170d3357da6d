"""The stored status of entities, computed by MongoDB so that no config is transferred."""

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
    "worker": _text_at("$status.worker"),
}
"""A `$set` stage of a pipeline; :func:`stored_status` reads its fields."""


def stored_status(fields: Mapping[str, Any], hold: Hold | None = None) -> StoredStatus:
    """Return the status of a document that has STATUS_FIELDS."""
    return StoredStatus(str(fields["state"]), str(fields["worker"]), bool(fields["enabled"]), hold)


def owner_of(owners: Mapping[int, Ownership], segment: object) -> Ownership | None:
    """Return the owner of the segment that a document names; None when that segment is unknown."""
    number = whole(segment)
    return owners.get(number) if number is not None else None


def number(value: object) -> float | None:
    """Return *value* as a float; None when it is not a number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def whole(value: object) -> int | None:
    """Return *value* as an int; None when it is not a number."""
    found = number(value)
    return int(found) if found is not None else None
