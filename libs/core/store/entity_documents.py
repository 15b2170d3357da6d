"""The representation of an entity and the history of its events in one document.

Beside the contract's fields (`id`, `segment_id`, `config`, `custom`) an entity has `revision`, `event` (the stamp of
the current version and names of its additional fields), `alternates` (versions that may become current) and `trace`.
Workers add fields of their own, such as `status` and `release` (:mod:`libs.core.store.releases`).
Documents of an older runtime have none of these, which is no error.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from libs.core.store.client import Document
from libs.core.store.history import EventKind, History, Stamp, Version
from libs.core.timestamps import nanoseconds_of, parse_rfc3339

CUSTOM_FIELDS = ("config", "createdAt", "updatedAt", "filePath", "gcsPath", "sha256", "version")
"""The fields of `custom` that the runtime reads. Producers and an older runtime use different spellings."""

_OURS = {
    "_id",
    "id",
    "segment_id",
    "revision",
    "event",
    "alternates",
    "trace",
    "status",
    "held",
    "next_execution_time",
    "scheduler",
    "release",
    "restart",
    "backtest",
    "relocation",
    "saved_state",
}
_MILLISECOND = 1_000_000


def history_of(document: Mapping[str, object] | None, deleted: Stamp | None) -> History:
    """Return the history that *document* and the entity's tombstone contain."""
    if document is None:
        return History((), deleted)
    alternates = cast(Sequence[Mapping[str, object]], document.get("alternates", ()))
    return History((_current(document), *(_alternate(fields) for fields in alternates)), deleted)


def fields_of(history: History) -> Document:
    """Return the fields to store for *history*, which has a current version; no `id`, `segment_id`, `revision`."""
    current = history.versions[0]
    beside, kept = _divided(current.content)
    fields: Document = {**beside, "config": current.content["config"], "custom": current.content["custom"]}
    fields["event"] = {"kind": str(current.kind), **current.stamp.to_document(), "fields": sorted(beside)}
    if kept:
        fields["event"]["kept"] = kept
    if history.alternates:
        fields["alternates"] = [
            {"kind": str(v.kind), **v.stamp.to_document(), "content": dict(v.content), "trace": dict(v.trace)}
            for v in history.alternates
        ]
    if current.trace:
        fields["trace"] = dict(current.trace)
    return fields


def stale_fields(document: Mapping[str, object], fields: Mapping[str, object]) -> list[str]:
    """Return the fields that an earlier event left in *document* and that the new *fields* no longer contain."""
    before = [*_event(document).get("fields", ()), "alternates", "trace"]
    return [name for name in before if name in document and name not in fields]


def _current(document: Mapping[str, object]) -> Version:
    event = _event(document)
    content = {"config": document.get("config") or {}, "custom": document.get("custom") or {}}
    if not event:
        return Version(EventKind.UPDATED, _inherited_stamp(content["custom"]), content)
    content |= {name: document[name] for name in event.get("fields", ()) if name in document}
    content |= event.get("kept", {})
    trace = cast(Mapping[str, str], document.get("trace") or {})
    return Version(EventKind(event["kind"]), Stamp.from_document(event), content, trace)


def _alternate(fields: Mapping[str, object]) -> Version:
    content = cast(Mapping[str, object], fields["content"])
    trace = cast(Mapping[str, str], fields.get("trace") or {})
    return Version(EventKind(str(fields["kind"])), Stamp.from_document(cast(Mapping[str, int], fields)), content, trace)


def _event(document: Mapping[str, object]) -> Document:
    return cast(Document, document.get("event") or {})


def _divided(content: Mapping[str, object]) -> tuple[Document, Document]:
    """Return the unknown fields of *content* that can be stored under their own names, and those that cannot."""
    unknown = {name: value for name, value in content.items() if name not in ("config", "custom")}
    kept = {n: v for n, v in unknown.items() if n in _OURS or not n or n.startswith("$") or "." in n}
    return {name: value for name, value in unknown.items() if name not in kept}, kept


def _inherited_stamp(custom: object) -> Stamp:
    """Return the stamp of an older runtime's document: as if published at the time of its `updatedAt`."""
    custom = with_names(custom, CUSTOM_FIELDS) if isinstance(custom, Mapping) else {}
    for name in ("updatedAt", "createdAt"):
        written = custom.get(name)
        if isinstance(written, datetime):
            made_at = nanoseconds_of(written) // _MILLISECOND * _MILLISECOND
            return Stamp(made_at, made_at + _MILLISECOND, made_at)
        if isinstance(written, str):
            try:
                moment = parse_rfc3339(written)
            except ValueError:
                continue
            made_by = moment.nanoseconds + moment.precision_nanoseconds
            return Stamp(moment.nanoseconds, made_by, moment.nanoseconds)
    return Stamp(0, 0, 0)


def with_names(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return *fields* with the spelling of *names*, regardless of case. An exact spelling takes precedence."""
    spelling = {name.lower(): name for name in names}
    renamed: dict[str, Any] = {}
    for key, value in fields.items():
        name = spelling.get(key.lower(), key)
        if name == key or name not in fields:
            renamed[name] = value
    return renamed
