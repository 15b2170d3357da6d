"""Parse the payloads of events: both forms, keys in any case, all fields kept, errors that name the field."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from libs.core.errors import Permanent
from libs.core.observability.tracing import trace_of
from libs.core.store.entity_documents import CUSTOM_FIELDS, with_names
from libs.core.store.history import EntityEvent, EventKind, Stamp
from libs.core.timestamps import WrittenTime, parse_rfc3339

_TOP = ("id", "config", "custom", "enabled")
_ENVELOPE = ("type", "entity_id", "data", "timestamp")
_ROUTING = "topicName"
_MAX_ID_CHARACTERS = 1024

T = TypeVar("T")


class PayloadRejected(Permanent):
    """The event can never be applied. *field* names the invalid field; None means the whole payload."""

    def __init__(self, field: str | None, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a message in the stream; times in nanoseconds since 1970."""

    published_at: int
    stream_created_at: int
    sequence: int


def read_event(kind: EventKind, payload: bytes, headers: Mapping[str, str], place: Place) -> EntityEvent:
    """Return the event in a message.

    Raises:
        PayloadRejected: the payload violates the contract; the error names the field.
    """
    fields = _unwrapped(_json_object(payload))
    entity_id = _entity_id(fields)
    if kind is EventKind.DELETED:
        return EntityEvent(entity_id, kind, _stamp(place, None), trace=trace_of(headers))
    content = _content(fields)
    return EntityEvent(entity_id, kind, _stamp(place, _made_at(kind, content["custom"])), content, trace_of(headers))


def _json_object(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload.decode("utf-8"), parse_constant=_no_json_constant)
    except UnicodeDecodeError as error:
        raise PayloadRejected(None, f"the payload is not UTF-8: {error}") from None
    except RecursionError:
        raise PayloadRejected(None, "the payload is nested too deeply") from None
    except ValueError as error:
        raise PayloadRejected(None, f"the payload is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise PayloadRejected(None, f"the payload must be an object, not {_kind_of(value)}")
    return value


def _no_json_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON value")


def _unwrapped(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the object with the entity, without its envelope."""
    outer = with_names(payload, (*_TOP, *_ENVELOPE))
    if "data" not in outer or "id" in outer or "custom" in outer:
        return with_names(payload, _TOP)
    data = outer["data"]
    if not isinstance(data, dict):
        raise PayloadRejected("data", f"must be an object, not {_kind_of(data)}")
    fields = with_names(data, (*_TOP, _ROUTING))
    fields.pop(_ROUTING, None)  # the producer's subject, not a part of the entity
    fields.setdefault("id", outer.get("entity_id"))
    return fields


def _entity_id(fields: Mapping[str, Any]) -> str:
    entity_id = _optional(fields, "id", str, "id")
    if not entity_id:
        raise PayloadRejected("id", "is missing or empty")
    if len(entity_id) > _MAX_ID_CHARACTERS:
        raise PayloadRejected("id", f"has {len(entity_id)} characters; at most {_MAX_ID_CHARACTERS} are allowed")
    return entity_id


def _content(fields: Mapping[str, Any]) -> dict[str, Any]:
    content = {name: value for name, value in fields.items() if name != "id"}
    content["config"] = _optional(fields, "config", dict, "config") or {}
    custom = _optional(fields, "custom", dict, "custom")
    if custom is None:
        raise PayloadRejected("custom", "is missing")
    content["custom"] = custom = with_names(custom, CUSTOM_FIELDS)
    for name in ("createdAt", "updatedAt", "filePath", "gcsPath", "sha256", "version"):
        _optional(custom, name, str, f"custom.{name}")
    _check_gcs_path(custom.get("gcsPath"))
    _check_bot(_optional(custom, "config", dict, "custom.config") or {})
    return content


def _check_gcs_path(path: str | None) -> None:
    if path:
        bucket, slash, key = path.removeprefix("gs://").partition("/")
        if not path.startswith("gs://") or not bucket or not slash or not key:
            raise PayloadRejected("custom.gcsPath", f"must be gs://BUCKET/KEY, not {path!r}")


def _check_bot(bot: Mapping[str, Any]) -> None:
    for name in ("name", "runtime", "version"):
        _optional(bot, name, str, f"custom.config.{name}")
    entrypoints = _optional(bot, "entrypoints", dict, "custom.config.entrypoints") or {}
    for name in entrypoints:
        _optional(entrypoints, name, str, f"custom.config.entrypoints.{name}")


def _optional(fields: Mapping[str, Any], name: str, kind: type[T], path: str) -> T | None:
    """Return the value of a field that may be absent or null."""
    value = fields.get(name)
    if value is None or isinstance(value, kind):
        return value
    wanted = "a string" if kind is str else "an object"
    raise PayloadRejected(path, f"must be {wanted}, not {_kind_of(value)}")


def _made_at(kind: EventKind, custom: Mapping[str, Any]) -> WrittenTime | None:
    updated_at = _time(custom, "updatedAt")
    if updated_at is None and kind is EventKind.CREATED:
        return _time(custom, "createdAt")
    return updated_at


def _time(custom: Mapping[str, Any], name: str) -> WrittenTime | None:
    """Return the time in a field; None when it is absent, empty, or a producer's zero time (before 1970)."""
    text = custom.get(name)
    if not text:
        return None
    try:
        moment = parse_rfc3339(text)
    except ValueError as error:
        raise PayloadRejected(f"custom.{name}", str(error)) from None
    return moment if moment.nanoseconds > 0 else None


def _stamp(place: Place, made_at: WrittenTime | None) -> Stamp:
    return Stamp.of(
        place.published_at,
        made_at=made_at.nanoseconds if made_at else None,
        precision=made_at.precision_nanoseconds if made_at else 1,
        stream=place.stream_created_at,
        sequence=place.sequence,
    )


def _kind_of(value: object) -> str:
    if value is None:
        return "null"
    kinds: dict[type, str] = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return kinds.get(type(value), "an object")
