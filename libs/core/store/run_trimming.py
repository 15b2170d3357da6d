"""Remove the oldest records of entities that have many: a schedule of each second makes 2.6 million in a month."""

from collections.abc import AsyncIterator

from pymongo import ASCENDING, DESCENDING

from libs.core.store.client import Database, Document, translated
from libs.core.store.runs import COLLECTION

_PAGE = 1000
_CHUNK = 20_000


class RunTrimming:
    """The runs of one service.

    Args:
        page: number of records removed with one request.
        chunk: number of records counted with one request.
    """

    def __init__(self, database: Database, *, page: int = _PAGE, chunk: int = _CHUNK) -> None:
        self._runs = database[COLLECTION]
        self._page = page
        self._chunk = chunk

    async def entities(self, most: int) -> AsyncIterator[str]:
        """Yield the ids of entities that may have more than *most* records; each request reads an index briefly.

        Raises:
            StoreUnavailable: retry later.
        """
        after: Document = {"entity_id": {"$gte": ""}}
        while True:
            counts = await self._counts(after)
            if not counts:
                return
            last = max(counts)
            is_cut_off = sum(counts.values()) == self._chunk
            for entity_id, count in counts.items():
                if count > most or (is_cut_off and entity_id == last):
                    yield entity_id
            after = {"entity_id": {"$gt": last}}

    async def beyond(self, entity_id: str, most: int) -> int:
        """Return how many records :meth:`trim` would remove."""
        older = await self._older(entity_id, most)
        with translated():
            return await self._runs.count_documents(older) if older is not None else 0

    async def trim(self, entity_id: str, most: int) -> AsyncIterator[int]:
        """Remove records of ended runs beyond the *most* that started last; yield how many, page by page.

        Repeating it removes nothing more.

        Raises:
            StoreUnavailable: some may have been removed.
        """
        older = await self._older(entity_id, most)
        while older is not None:
            with translated():
                ids = [found["_id"] async for found in self._runs.find(older, {"_id": 1}).limit(self._page)]
                # The condition is repeated: a run with a presumed end may have been adopted meanwhile.
                removed = await self._runs.delete_many({"_id": {"$in": ids}, "open": False}) if ids else None
            if removed is None:
                return
            yield removed.deleted_count

    async def _counts(self, after: Document) -> dict[str, int]:
        pipeline: list[Document] = [
            {"$match": after},
            {"$sort": {"entity_id": ASCENDING}},
            {"$limit": self._chunk},
            {"$group": {"_id": "$entity_id", "records": {"$sum": 1}}},
        ]
        with translated():
            return {str(found["_id"]): int(found["records"]) async for found in await self._runs.aggregate(pipeline)}

    async def _older(self, entity_id: str, most: int) -> Document | None:
        """Return the filter for the records beyond the newest; None without any."""
        with translated():
            cursor = self._runs.find({"entity_id": entity_id}, {"started_at": 1})
            cursor = cursor.sort([("started_at", DESCENDING), ("_id", ASCENDING)]).skip(most - 1).limit(1)
            last_kept = await anext(aiter(cursor), None)
        if last_kept is None:
            return None
        started_at = last_kept["started_at"]
        return {
            "entity_id": entity_id,
            "open": False,
            # The bound lets the index skip the kept records; the rest separates runs with the same start time.
            "started_at": {"$lte": started_at},
            "$or": [{"started_at": {"$lt": started_at}}, {"_id": {"$gt": last_kept["_id"]}}],
        }
