"""The metrics that bots print: one document for each entity, written by the owner of its segment.

A document names the entity's own document, so that an entity that was removed, and created again under the same id, has
none of the former one's metrics. Removing an entity removes its document, and a write looks for the entity afterwards:
so none is left, in whichever order they happen.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pymongo import DeleteOne, ReplaceOne

from libs.core.bot_metrics import EntityMetrics, MetricBook, metrics_view
from libs.core.observability.log import get_logger
from libs.core.store.client import Database, Document, translated

log = get_logger(__name__)

COLLECTION = "bot_metrics"

_KEEP_SECONDS = 30 * 24 * 3600
# No reader limits it further than the writer did.
_ALL_NAMES = 10_000
# More would hold up the event loop: a full document takes half a millisecond.
_AT_ONCE = 20


@dataclass(frozen=True)
class StoredMetrics:
    """What is stored of one entity; *entity* identifies its document, *book* is None without metrics."""

    entity: object
    book: MetricBook | None


class BotMetricsStore:
    """The collection ``bot_metrics``: ``{_id: entity id, entity, updated_at, left_out, series}``.

    Args:
        entities: the collection of the service's entities.
    """

    def __init__(self, database: Database, entities: str) -> None:
        self._metrics = database[COLLECTION]
        self._entities = database[entities]

    async def ensure_indexes(self) -> None:
        """Create the index that expires what an interrupted removal left. May be repeated."""
        with translated():
            await self._metrics.create_index("updated_at", name="updated_at_ttl", expireAfterSeconds=_KEEP_SECONDS)

    async def load(self, entity_ids: Collection[str]) -> dict[str, StoredMetrics]:
        """Return what is stored of those of these entities that exist. Raises StoreUnavailable."""
        entities = await self.existing(entity_ids)
        with translated():
            found = self._metrics.find({"_id": {"$in": list(entities)}})
            documents = {str(document["_id"]): document async for document in found}
        return {key: StoredMetrics(entity, _book(documents.get(key), entity)) for key, entity in entities.items()}

    async def save(self, books: Mapping[str, tuple[object, MetricBook]]) -> set[str]:
        """Store the books of entities, each with what :meth:`load` returned as *entity*. May be repeated.

        Returns:
            Those of these entities that are gone; nothing is stored of them.

        Raises:
            StoreUnavailable: part of it may have been written.
        """
        keys = list(books)
        for begin in range(0, len(keys), _AT_ONCE):
            now = datetime.now(UTC)
            writes = [
                ReplaceOne({"_id": key}, {"entity": entity, "updated_at": now, **book.to_document()}, upsert=True)
                for key in keys[begin : begin + _AT_ONCE]
                for entity, book in [books[key]]
            ]
            with translated():
                await self._metrics.bulk_write(writes, ordered=False)
        if not keys:
            return set()
        present = await self.existing(books)
        gone = {key for key, (entity, _) in books.items() if present.get(key) != entity}
        if gone:
            removals = [DeleteOne({"_id": key, "entity": books[key][0]}) for key in gone]
            with translated():
                await self._metrics.bulk_write(removals, ordered=False)
        return gone

    async def existing(self, entity_ids: Collection[str]) -> dict[str, object]:
        """Return what identifies the document of each of these entities that exists. Raises StoreUnavailable."""
        with translated():
            found = self._entities.find({"id": {"$in": list(entity_ids)}}, {"id": 1})
            return {str(document["id"]): document["_id"] async for document in found}

    async def of(self, entity_id: str) -> EntityMetrics | None:
        """Return the metrics of one entity; None when there is no such entity. Raises StoreUnavailable."""
        stored = (await self.load([entity_id])).get(entity_id)
        if stored is None:
            return None
        return metrics_view(entity_id, stored.book or MetricBook(_ALL_NAMES))


def _book(document: Document | None, entity: object) -> MetricBook | None:
    if document is None or document.get("entity") != entity:
        return None
    try:
        return MetricBook.from_document(document, _ALL_NAMES)
    except (KeyError, TypeError, ValueError) as error:
        # Of another version: the metrics of others must not wait for it.
        log.warning("stored metrics cannot be read", entity=document["_id"], reason=repr(error))
        return None
