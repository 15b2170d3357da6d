"""JSON that every reader accepts: no NaN; the few non-JSON types of a database document become text."""

import json
import math
from collections.abc import Mapping
from datetime import date, datetime


def to_json(value: object) -> str:
    """Return *value* as compact JSON. NaN and infinities become null, dates ISO 8601, other types their ``str``."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain)
    except ValueError:
        # Searching for them first would traverse every other value.
        return json.dumps(_without_nan(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value)


def _without_nan(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    return _without_nan(_plain(value))
