"""Apply events to entities: in batches, in any order, in several processes, and again after a crash.

Each entity's history is read, the events are folded into it (pure: :mod:`libs.core.store.history`), and the result is
written on the condition that the revision is unchanged. A writer that loses a race reads again. The order of the steps
makes a crash between any two of them harmless once the events are redelivered:

- a tombstone is written before the entity is removed, and read after the entity: it explains a missing entity;
- after a tombstone was written without a removal, the entity is read again, and after an insert or an update
  the tombstone is, so that of a concurrent deletion and write, one always sees the other;
- a slot is claimed before an insert and returned after a removal (:mod:`libs.core.store.partitions`).
"""

import asyncio
import collections
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import Counter
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from libs.core.errors import Retryable
from libs.core.observability.log import get_logger
from libs.core.placement import key_of
from libs.core.store import bot_metrics
from libs.core.store.client import Database, Document, met_existing, translated
from libs.core.store.entity_documents import fields_of, history_of, stale_fields
from libs.core.store.history import EntityEvent, History, Stamp
from libs.core.store.partitions import PartitionStore, Slot
from libs.core.store.tombstones import TombstoneStore

Derive = Callable[[Mapping[str, object], Mapping[str, object] | None], Mapping[str, object]]
"""The service's own fields (such as `next_execution_time`) for an entity whose document becomes the first argument.

The second is its document as read, None for a new entity; a worker may have changed its own fields since.
"""

log = get_logger(__name__)

BEHIND_DELETION = Counter(
    "runtime_events_behind_deletion_total",
    "Events made before a deletion of their entity and published after it, by whether they count.",
    ["outcome"],
)
for _outcome in ("accepted", "dropped"):
    BEHIND_DELETION.labels(_outcome)  # from 0 on, so that the first one shows as an increase

_MAX_ROUNDS = 30


class EntityContended(Retryable):
    """Other writers changed the entities before each attempt to write."""

    def __init__(self, entity_ids: Iterable[str]) -> None:
        super().__init__(f"lost the race for {sorted(entity_ids)} {_MAX_ROUNDS} times")


@dataclass(slots=True)
class Applied:
    """The effects of a call of :meth:`EntityWriter.apply`; possibly more than happened, never less."""

    segments: set[int] = field(default_factory=set)
    """Segments whose owner must be woken."""
    changed_ids: set[str] = field(default_factory=set)
    occupancy_changed: bool = False
    """Whether the masters must be woken: a partition got its first entity, or lost its last one."""


@dataclass(frozen=True, slots=True)
class _Behind:
    """An event that was made before a deletion and published after it: the producer's clock is behind, or it is old."""

    event: EntityEvent
    seconds: float
    accepted: bool

    def report(self) -> None:
        BEHIND_DELETION.labels("accepted" if self.accepted else "dropped").inc()
        log.warning(
            (
                "event counts although it was made before the deletion"
                if self.accepted
                else "event dropped because it was made before the deletion; check the producer's clock"
            ),
            id=self.event.id,
            kind=str(self.event.kind),
            behind_seconds=round(self.seconds, 3),
        )


@dataclass(slots=True)
class _Plan:
    """The writes that bring the database in line with the histories."""

    tombstones: dict[str, Stamp] = field(default_factory=dict)
    inserts: list[Document] = field(default_factory=list)
    updates: list[tuple[Document, UpdateOne]] = field(default_factory=list)
    removals: list[Document] = field(default_factory=list)
    behind: list[_Behind] = field(default_factory=list)

    def written_ids(self) -> set[str]:
        """The entities whose document is written, on the condition that it is unchanged."""
        return {d["id"] for d in (*self.inserts, *(document for document, _ in self.updates), *self.removals)}


class EntityWriter:
    """Applies events to the entities of one service."""

    def __init__(
        self,
        database: Database,
        collection: str,
        partitions: PartitionStore,
        tombstones: TombstoneStore,
        derive: Derive | None = None,
    ) -> None:
        self._entities = database[collection]
        self._metrics = database[bot_metrics.COLLECTION]
        self._partitions = partitions
        self._tombstones = tombstones
        self._derive = derive

    async def apply(self, events: Sequence[EntityEvent], revision: int | None = None) -> Applied:
        """Apply *events* to the entities, given all earlier events. May be repeated.

        Args:
            revision: if given, an entity with another revision, or a removed one, is not changed.

        Raises:
            StoreUnavailable: part of it may have been written; apply the same events again.
            EntityContended: as above.
            StoreRejected: one of the entities cannot be stored; apply each alone to find which.
        """
        events_by_id: dict[str, list[EntityEvent]] = {}
        for event in events:
            events_by_id.setdefault(event.id, []).append(event)
        applied = Applied()
        for attempt in range(_MAX_ROUNDS):
            if attempt > 1:
                await asyncio.sleep(random.uniform(0, 0.002 * attempt))  # noqa: S311 - only spreads the losers out
            contended = await self._round(events_by_id, applied, revision)
            if not contended:
                return applied
            events_by_id = {entity_id: events_by_id[entity_id] for entity_id in contended}
        raise EntityContended(events_by_id)

    async def remove(self, document: Document, ended: Stamp) -> Applied:
        """Remove the entity of *document*, as deleted at *ended* or after all of its events.

        An entity recreated under the same id meanwhile is kept. May be repeated.

        Raises:
            StoreUnavailable: it may have been removed.
            EntityContended: it changes all the time.
        """
        applied = Applied()
        entity_id = document["id"]
        for _ in range(_MAX_ROUNDS):
            await self._tombstones.put({entity_id: history_of(document, None).following(ended)})
            if not await self._remove([document], applied):
                return applied
            now = (await self._documents([entity_id])).get(entity_id)
            if now is None or now["_id"] != document["_id"]:
                return applied
            document = now
        raise EntityContended([entity_id])

    async def finish_deletions(self, entity_ids: Sequence[str]) -> Applied:
        """Remove those of these entities that have a tombstone of a deletion. May be repeated.

        Raises:
            StoreUnavailable: some may have been removed.
        """
        applied = Applied()
        documents, deletions = await asyncio.gather(self._documents(entity_ids), self._tombstones.of(entity_ids))
        # An entity that changes meanwhile is handled by the other writer, which reads the tombstone too.
        await self._remove(
            [d for d in documents.values() if d["id"] in deletions and _is_deleted(d, deletions[d["id"]])], applied
        )
        return applied

    async def _round(
        self, events_by_id: Mapping[str, Sequence[EntityEvent]], applied: Applied, revision: int | None
    ) -> set[str]:
        """Make one attempt; return the ids that need another one."""
        documents = await self._documents(events_by_id)
        deletions = await self._tombstones.of(events_by_id)
        plan = _Plan()
        for entity_id, events in events_by_id.items():
            document = documents.get(entity_id)
            if revision is None or (document is not None and int(document.get("revision", 0)) == revision):
                self._plan_one(plan, entity_id, events, document, deletions.get(entity_id))
        await self._tombstones.put(plan.tombstones)
        deletions |= plan.tombstones
        contended = await self._changed_since(documents, plan.tombstones.keys() - plan.written_ids())
        contended |= await self._remove(plan.removals, applied)
        contended |= await self._update(plan.updates, deletions, applied)
        contended |= await self._insert(plan.inserts, deletions, applied)
        for behind in plan.behind:
            if behind.event.id not in contended:
                behind.report()
        return contended

    async def _changed_since(self, documents: Mapping[str, Document], entity_ids: Iterable[str]) -> set[str]:
        """Return those of these entities that changed since they were read into *documents*."""
        entity_ids = set(entity_ids)
        if not entity_ids:
            return set()
        now = await self._documents(entity_ids)
        return {i for i in entity_ids if _state(now.get(i)) != _state(documents.get(i))}

    async def _deleted_since(self, deletions: Mapping[str, Stamp], entity_ids: Iterable[str]) -> set[str]:
        """Return those of these entities whose last deletion is no longer the one in *deletions*."""
        entity_ids = set(entity_ids)
        if not entity_ids:
            return set()
        now = await self._tombstones.of(entity_ids)
        return {i for i in entity_ids if now.get(i) != deletions.get(i)}

    async def _documents(self, entity_ids: Iterable[str]) -> dict[str, Document]:
        with translated():
            found = self._entities.find({"id": {"$in": list(entity_ids)}})
            return {document["id"]: document async for document in found}

    def _plan_one(
        self,
        plan: _Plan,
        entity_id: str,
        events: Sequence[EntityEvent],
        document: Document | None,
        deleted: Stamp | None,
    ) -> None:
        stored = history_of(document, None)
        before = stored if deleted is None else stored.with_deletion(deleted)
        after = before
        for event in events:
            behind, known = after.behind_deletion(event), after
            after = after.after(event)
            accepted = known.deleted is not None and event.stamp.outlives(known.deleted)
            if behind > 0 and (not accepted or after.versions != known.versions):
                plan.behind.append(_Behind(event, behind / 1e9, accepted))
        if after.deleted is not None and after.deleted != deleted:
            plan.tombstones[entity_id] = after.deleted
        if after.current is None:
            if document is not None:
                plan.removals.append(document)
        elif document is None:
            plan.inserts.append({"id": entity_id, "revision": 1, **self._fields(entity_id, after, None)})
        elif after.versions is not stored.versions and after.versions != stored.versions:
            plan.updates.append((document, self._update_of(document, stored, after)))

    def _fields(self, entity_id: str, history: History, before: Document | None) -> Document:
        fields = fields_of(history)
        if self._derive is not None:
            fields |= self._derive({"id": entity_id, **fields}, before)
        return fields

    def _update_of(self, document: Document, before: History, after: History) -> UpdateOne:
        same_current = before.current is not None and before.current == after.current
        fields = fields_of(after) if same_current else self._fields(document["id"], after, document)
        stale = stale_fields(document, fields)
        change: Document = {"$set": {**fields, "revision": int(document.get("revision", 0)) + 1}}
        if stale:
            change["$unset"] = dict.fromkeys(stale, "")
        return UpdateOne(as_read(document), change)

    async def _remove(self, documents: Sequence[Document], applied: Applied) -> set[str]:
        if not documents:
            return set()
        slots = await self._partitions.held_slots(d["segment_id"] for d in documents if "segment_id" in d)
        with translated():
            results = await asyncio.gather(*(self._entities.delete_one(as_read(d)) for d in documents))
        removed = [d for d, result in zip(documents, results, strict=True) if result.deleted_count]
        applied.occupancy_changed |= await self._partitions.release(
            [slots[d["segment_id"]] for d in removed if d.get("segment_id") in slots]
        )
        if removed:
            with translated():
                await self._metrics.delete_many({"_id": {"$in": [document["id"] for document in removed]}})
        for document in removed:
            self._note(applied, document)
        return {d["id"] for d in documents} - {d["id"] for d in removed}

    async def _update(
        self, updates: Sequence[tuple[Document, UpdateOne]], deletions: Mapping[str, Stamp], applied: Applied
    ) -> set[str]:
        if not updates:
            return set()
        with translated():
            result = await self._entities.bulk_write([update for _, update in updates], ordered=False)
        for document, _ in updates:
            self._note(applied, document)
        updated = {document["id"] for document, _ in updates}
        if result.matched_count < len(updates):
            # The server does not report which of them matched. A second round finds nothing to do for those that did.
            return updated
        return await self._deleted_since(deletions, updated)

    async def _insert(
        self, documents: Sequence[Document], deletions: Mapping[str, Stamp], applied: Applied
    ) -> set[str]:
        if not documents:
            return set()
        slots = await self._claim(documents)
        for document, slot in zip(documents, slots, strict=True):
            document["segment_id"] = slot.segment_id
        self._partitions.check(slots)
        existing = await self._insert_unless_there(documents)
        await self._partitions.confirm(slot for index, slot in enumerate(slots) if index not in existing)
        await self._partitions.release([slots[index] for index in existing])
        inserted = [document for index, document in enumerate(documents) if index not in existing]
        for document in inserted:
            self._note(applied, document)
        applied.occupancy_changed |= any(slot.was_empty for slot in slots)
        contended = {documents[index]["id"] for index in existing}
        return contended | await self._deleted_since(deletions, (document["id"] for document in inserted))

    async def _claim(self, documents: Sequence[Document]) -> list[Slot]:
        """Return a slot for each of *documents*, in their order."""
        placements = [key_of(document.get("config")) for document in documents]
        claimed = {
            placement: iter(await self._partitions.claim(number, placement))
            for placement, number in collections.Counter(placements).items()
        }
        return [next(claimed[placement]) for placement in placements]

    async def _insert_unless_there(self, documents: Sequence[Document]) -> set[int]:
        """Insert all except those whose id exists; return the indexes of those."""
        with translated():
            try:
                await self._entities.insert_many(documents, ordered=False)
            except BulkWriteError as error:
                return met_existing(error)
        return set()

    @staticmethod
    def _note(applied: Applied, document: Document) -> None:
        applied.changed_ids.add(document["id"])
        if isinstance(document.get("segment_id"), int):
            applied.segments.add(document["segment_id"])


def _is_deleted(document: Document, deletion: Stamp) -> bool:
    """Whether nothing in *document* is later than *deletion*."""
    return history_of(document, None).with_deletion(deletion).current is None


def as_read(document: Mapping[str, object]) -> Document:
    """Return the filter that matches *document* while it is unchanged."""
    return {"_id": document["_id"], "revision": document.get("revision", {"$exists": False})}


def _state(document: Document | None) -> Document | None:
    return None if document is None else as_read(document)
