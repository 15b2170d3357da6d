"""The entities of one service: its bots, backtests or schedules."""

import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from pymongo import UpdateOne

from libs.core.placement import key_of
from libs.core.store.client import Database, Document, translated
from libs.core.store.entity_documents import CUSTOM_FIELDS, with_names
from libs.core.store.entity_writer import Applied, Derive, EntityWriter, as_read
from libs.core.store.history import EntityEvent, EventKind, Stamp
from libs.core.store.holds import Hold, Holds, HoldStore
from libs.core.store.numbers import with_integers
from libs.core.store.partitions import PartitionStore
from libs.core.store.relocations import MOVED_AWAY, PLACEMENT, Relocation, RelocationStore
from libs.core.store.tombstones import TombstoneStore
from libs.core.timestamps import nanoseconds_of

RESTART_FIELD = "restart"
"""The requested restart, written by users: `{id, at, by}`. No event changes it."""

_OFF = (False, 0, "false", "0")


@dataclass(frozen=True, slots=True)
class CodeLocation:
    """The location of an entity's code.

    Attributes:
        bucket: None for the configured code bucket.
        sha256: of the archive, as ``custom.sha256`` has it; None when it has none.
    """

    bucket: str | None
    key: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Entity:
    """One entity as read. `held` is the hold that keeps it from running, if any."""

    id: str
    segment_id: int
    revision: int
    config: Mapping[str, Any]
    custom: Mapping[str, Any]
    enabled: bool
    held: Hold | None = None
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The whole document, with unknown fields."""

    @classmethod
    def of(cls, document: Mapping[str, Any], holds: Holds | None = None) -> "Entity":
        """Read a document, also one written by an older runtime or by hand.

        A field of an unexpected type counts as missing: one document must not fail a read of many.
        """
        config = cast(Mapping[str, Any], with_integers(_object(document.get("config"))))
        return cls(
            id=str(document["id"]),
            segment_id=_integer(document.get("segment_id")),
            revision=_integer(document.get("revision")),
            config=config,
            custom=with_names(_object(document.get("custom")), CUSTOM_FIELDS),
            enabled=is_enabled(config, document.get("enabled")),
            held=holds.on(document) if holds is not None else None,
            document=document,
        )

    @property
    def should_run(self) -> bool:
        """Enabled, and not held."""
        return self.enabled and self.held is None

    @property
    def killed(self) -> bool:
        """Whether it is held by a kill, so that its code must not run."""
        return self.held is not None and not self.held.graceful

    @property
    def bot(self) -> Mapping[str, Any]:
        """`custom.config`: the bot's own description."""
        return _object(self.custom.get("config"))

    @property
    def version(self) -> str:
        """The version of the code, "" when it has none."""
        return _text(self.custom.get("version") or self.bot.get("version"))

    @property
    def runtime(self) -> str:
        """Such as `python3.11`; "" when missing."""
        return _text(self.bot.get("runtime"))

    @property
    def entrypoints(self) -> Mapping[str, str]:
        """File names by entry: `bot`, `backtest`."""
        return {name: file for name, file in _object(self.bot.get("entrypoints")).items() if isinstance(file, str)}

    @property
    def code(self) -> CodeLocation | None:
        """The location of the code, by `filePath`, else by `gcsPath`; None without both."""
        sha256 = _text(self.custom.get("sha256")).lower() or None
        key = self.custom.get("filePath")
        if isinstance(key, str) and key:
            return CodeLocation(None, key, sha256)
        bucket, slash, key = _text(self.custom.get("gcsPath")).removeprefix("gs://").partition("/")
        return CodeLocation(bucket, key, sha256) if slash and bucket and key else None

    def owner(self, field: str) -> str:
        """The owner that *field*, a path such as `custom.config.author`, names; "" for none."""
        return owner_in({**self.document, "config": self.config, "custom": self.custom}, field)

    @property
    def status(self) -> Mapping[str, Any]:
        """The status that a worker wrote last."""
        return _object(self.document.get("status"))

    @property
    def restart(self) -> str:
        """The id of the restart that was requested last; "" without one."""
        return _text(_object(self.document.get(RESTART_FIELD)).get("id"))

    @property
    def relocation(self) -> Relocation | None:
        """The order to move it to another segment, or its last move."""
        return Relocation.of(self.document)

    def order_from(self, segment_id: int, now: float) -> Relocation | None:
        """Return the order to move it from this segment, if one is valid at *now* (Unix seconds)."""
        order = self.relocation
        return order if order is not None and order.holds(segment_id, self.revision, now) else None

    @property
    def as_read(self) -> Document:
        """The fields by which it is recognised as unchanged by events since it was read, and not recreated.

        For the *expected* of :meth:`EntityStore.compare_and_set`.
        """
        return as_read(self.document)

    @property
    def trace(self) -> Mapping[str, str]:
        """The W3C trace headers of its current event, if any."""
        return cast(Mapping[str, str], _object(self.document.get("trace")))


@dataclass(frozen=True, slots=True)
class Change:
    """Fields of one entity to set, if those in *expected* are as given; see :meth:`EntityStore.compare_and_set`."""

    entity_id: str
    expected: Mapping[str, object]
    changes: Mapping[str, object]


class EntityStore:
    """The collection of entities, with the partitions, tombstones and holds that belong to it.

    Args:
        derive: returns the service's own fields for a version that becomes current; may raise Permanent to reject it.
    """

    def __init__(
        self,
        database: Database,
        collection: str,
        partitions: PartitionStore,
        *,
        derive: Derive | None = None,
        tombstones: TombstoneStore | None = None,
    ) -> None:
        self._entities = database[collection]
        self._tombstones = tombstones or TombstoneStore(database)
        self._writer = EntityWriter(database, collection, partitions, self._tombstones, derive)
        self.partitions = partitions
        self.holds = HoldStore(database)
        self.relocations = RelocationStore(database, collection, partitions)

    async def ensure_indexes(self) -> None:
        """Create all indexes that event processing needs. May be repeated, and run in several processes at once.

        Raises:
            StoreConflict: two documents have one id; remove one of them.
        """
        with translated():
            indexes = await self._entities.index_information()
            # An older runtime's indexes serve as well, under any names.
            fields = {
                (index["key"][0][0], bool(index.get("unique"))) for index in indexes.values() if len(index["key"]) == 1
            }
            if ("id", True) not in fields:
                await self._entities.create_index("id", unique=True, name="entity_id")
            if ("segment_id", False) not in fields:
                await self._entities.create_index("segment_id", name="entity_segment")
        await self.partitions.ensure_indexes()
        await self._tombstones.ensure_indexes()

    async def get(self, entity_id: str) -> Entity | None:
        """Return one entity, or None."""
        with translated():
            document = await self._entities.find_one({"id": entity_id})
        return Entity.of(document, await self.holds.current()) if document is not None else None

    async def may_run(self, entity_id: str) -> Entity | None:
        """Return one entity unless it was killed, or None."""
        entity = await self.get(entity_id)
        return None if entity is None or entity.killed else entity

    async def move(self, entity: Entity) -> int | None:
        """Move *entity*, which runs nowhere, to a segment of its placement; return that, or None if it changed.

        Only the owner of its segment may call it, and must not start it any more.

        Raises:
            StoreUnavailable: it may have moved.
        """
        [slot] = await self.partitions.claim(1, key_of(entity.config))
        is_emptied = await self.relocations.change_segment(
            {**entity.as_read, "segment_id": entity.segment_id},
            entity.segment_id,
            slot,
            {"$set": {"segment_id": slot.segment_id}, "$unset": dict.fromkeys(MOVED_AWAY, "")},
            PLACEMENT,
        )
        return slot.segment_id if is_emptied is not None else None

    async def in_segment(self, segment_id: int) -> list[Entity]:
        """Return the entities of a segment by id, including held and disabled ones."""
        return await self._find({"segment_id": segment_id})

    async def page(self, *, after_id: str = "", limit: int = 1000, segment_id: int | None = None) -> list[Entity]:
        """Return entities by id, from the first after *after_id* on."""
        query: Document = {"id": {"$gt": after_id}}
        if segment_id is not None:
            query["segment_id"] = segment_id
        return await self._find(query, limit)

    async def all(self) -> AsyncGenerator[Entity, None]:
        """Yield all entities by id, read in pages."""
        after_id = ""
        while page := await self.page(after_id=after_id):
            for entity in page:
                yield entity
            after_id = page[-1].id

    async def apply(self, events: Sequence[EntityEvent]) -> Applied:
        """Apply *events* to the entities; see :meth:`EntityWriter.apply`."""
        return await self._writer.apply(events)

    async def create(
        self,
        entity_id: str,
        config: Mapping[str, object],
        custom: Mapping[str, object],
        *,
        beside: Mapping[str, object] | None = None,
    ) -> Applied:
        """Create an entity, ordered after all applied events; changes nothing when it exists.

        Args:
            beside: further fields, for an event with more fields than in the contract.
        """
        return await self._direct(entity_id, EventKind.CREATED, {**(beside or {}), "config": config, "custom": custom})

    async def update(
        self,
        entity_id: str,
        config: Mapping[str, object],
        custom: Mapping[str, object],
        *,
        revision: int | None = None,
        beside: Mapping[str, object] | None = None,
    ) -> Applied:
        """Change an entity, ordered after all applied events; without *revision*, create it when unknown.

        Args:
            revision: the revision that was read; if it has changed, do nothing.
            beside: as for :meth:`create`.
        """
        content = {**(beside or {}), "config": config, "custom": custom}
        return await self._direct(entity_id, EventKind.UPDATED, content, revision)

    async def delete(self, entity_id: str, *, revision: int | None = None) -> Applied:
        """Remove an entity: earlier events cannot recreate it.

        Args:
            revision: the revision that was read; if it has changed, do nothing.
        """
        return await self._direct(entity_id, EventKind.DELETED, {}, revision)

    async def remove(self, entity: Entity, ended_at: datetime) -> Applied:
        """Remove a completed entity: events from before *ended_at* cannot recreate it.

        Unlike :meth:`delete` it keeps one that was created under the same id after *entity* was read and removed.

        Raises:
            StoreUnavailable: repeat it.
        """
        return await self._writer.remove(dict(entity.document), Stamp.of(nanoseconds_of(ended_at)))

    async def finish_deletions(self, within_seconds: float | None = None) -> Applied:
        """Remove entities whose deletion was interrupted, and whose event is not redelivered. Safe at any time.

        Args:
            within_seconds: only deletions that began within that time; None: all that are stored.

        Raises:
            StoreUnavailable: try again later.
        """
        return await self._writer.finish_deletions(
            await self._tombstones.of_existing(self._entities.name, within_seconds)
        )

    async def set_status(self, entity_id: str, status: Mapping[str, object]) -> bool:
        """Write a worker's fields, without changing the revision. Return False when the entity is gone."""
        return await self.compare_and_set(entity_id, {}, {"status": dict(status)})

    async def compare_and_set(
        self, entity_id: str, expected: Mapping[str, object], changes: Mapping[str, object]
    ) -> bool:
        """Set fields that no event carries, if those in *expected* have these values (None: absent). Atomic.

        Field names may be dotted paths. A change to None removes the field.
        """
        with translated():
            result = await self._entities.update_one({"id": entity_id, **expected}, _setting(changes))
        return result.matched_count > 0

    async def compare_and_set_many(self, changes: Sequence[Change]) -> int:
        """Make many changes like :meth:`compare_and_set` in one request; return how many matched.

        The server does not report which. To find out, set a unique value in each change and read it back.
        """
        if not changes:
            return 0
        updates = [UpdateOne({"id": c.entity_id, **c.expected}, _setting(c.changes)) for c in changes]
        with translated():
            result = await self._entities.bulk_write(updates, ordered=False)
        return result.matched_count

    async def mark_segment(self, segment_id: int, field: str, mark: Mapping[str, object]) -> None:
        """Set *mark*'s fields below *field* in each entity of the segment; other fields stay. May be repeated.

        An entity in which *field* is not an object is not changed.
        """
        marked = {"$mergeObjects": [f"${field}", {name: {"$literal": value} for name, value in mark.items()}]}
        is_object = {"$in": [{"$type": f"${field}"}, ["object", "missing", "null"]]}
        with translated():
            await self._entities.update_many(
                {"segment_id": segment_id}, [{"$set": {field: {"$cond": [is_object, marked, f"${field}"]}}}]
            )

    async def by_ids(self, entity_ids: Iterable[str]) -> dict[str, Entity]:
        """Return those of these entities that exist, in the order of their ids."""
        return {entity.id: entity for entity in await self._find({"id": {"$in": list(entity_ids)}})}

    async def naming_data(self, name: str) -> list[str]:
        """Return the ids of the entities whose config or description has the data set *name* in a list `dataSets`."""
        fields = ("config.dataSets", "custom.config.dataSets")
        # Only a list refers to data sets.
        return [
            entity.id
            for entity in await self._find(
                {"$or": [{field: name, f"{field}.0": {"$exists": True}} for field in fields]}
            )
        ]

    async def count(self) -> int:
        """Return the number of entities."""
        with translated():
            return await self._entities.count_documents({})

    async def _direct(
        self, entity_id: str, kind: EventKind, content: Mapping[str, object], revision: int | None = None
    ) -> Applied:
        event = EntityEvent(entity_id, kind, Stamp.of(time.time_ns()), content, direct=True)
        return await self._writer.apply([event], revision)

    async def _find(self, query: Document, limit: int = 0) -> list[Entity]:
        holds = await self.holds.current()
        with translated():
            found = self._entities.find(query).sort("id", 1).limit(limit)
            # A document without an id cannot be an entity, and no container can belong to it.
            return [Entity.of(document, holds) async for document in found if "id" in document]


def _setting(changes: Mapping[str, object]) -> Document:
    change: Document = {}
    if sets := {name: value for name, value in changes.items() if value is not None}:
        change["$set"] = sets
    if unsets := [name for name, value in changes.items() if value is None]:
        change["$unset"] = dict.fromkeys(unsets, "")
    return change


def is_enabled(config: Mapping[str, object], above: object = None) -> bool:
    """Whether `config.enabled` lets an entity run: missing means yes; false, 0, "false" and "0" mean no.

    Args:
        above: the field `enabled` beside `config`, which takes precedence.
    """
    enabled = config.get("enabled") if above is None else above
    if isinstance(enabled, str):
        return enabled.strip().lower() not in _OFF
    return enabled is None or enabled not in _OFF


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _integer(value: object) -> int:
    """Return *value* as a number of any BSON type; 0 when it is none."""
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError, OverflowError):
        return 0


def owner_in(document: Mapping[str, Any], field: str) -> str:
    """Return the owner that *field* names in *document*; "" for none. A number, as of a user, is an owner as well."""
    value: object = document
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def _text(value: object) -> str:
    return "" if value is None else str(value)
