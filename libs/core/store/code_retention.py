"""How long unreferenced code is kept, as the masters have it: tools that upload code go by this."""

from datetime import UTC, datetime
from typing import Any

from libs.core.store.client import Database, Document, StoreConflict, translated

_DOCUMENT_ID = "code"
_SETTLE_SECONDS = 600.0
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class CodeRetention:
    """The document ``code`` of the collection ``retention``: ``{keep_seconds, since}``.

    The tools and the masters may run with different settings. What counts is the masters'.
    """

    def __init__(self, database: Database) -> None:
        self._retention = database["retention"]

    async def keep_seconds(self) -> float | None:
        """How long unreferenced code is kept, 0 for ever; None when no master has said so yet."""
        with translated():
            document = await self._retention.find_one({"_id": _DOCUMENT_ID})
        value = document.get("keep_seconds") if document is not None else None
        return float(value) if isinstance(value, int | float) else None

    async def announce(self, keep_seconds: float) -> bool:
        """Write down that unreferenced code is kept for *keep_seconds*; return whether code may be removed by that.

        It may not until uploads that went by another value have been announced: for ten minutes, by the database's
        clock. May be repeated.
        """
        value: dict[str, Any] = {"$literal": keep_seconds}
        is_known = {"$eq": ["$keep_seconds", value]}
        # Without a document nothing went by another value.
        is_first = {"$eq": [{"$type": "$keep_seconds"}, "missing"]}
        since = {"$cond": [is_known, "$since", {"$cond": [is_first, _LONG_AGO, "$$NOW"]}]}
        change: list[Document] = [{"$set": {"keep_seconds": value, "since": since}}]
        settled = {"$lte": ["$since", {"$subtract": ["$$NOW", int(_SETTLE_SECONDS * 1000)]}]}
        with translated():
            await self._upsert(change)
            found = await self._retention.find_one({"_id": _DOCUMENT_ID, "$expr": settled})
        return found is not None and found["keep_seconds"] == keep_seconds

    async def _upsert(self, change: list[Document]) -> None:
        try:
            with translated():
                await self._retention.update_one({"_id": _DOCUMENT_ID}, change, upsert=True)
        except StoreConflict:
            # Two upserted at once, and the other one made it.
            with translated():
                await self._retention.update_one({"_id": _DOCUMENT_ID}, change)
