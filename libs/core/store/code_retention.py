"""The retention of unreferenced code, as the masters apply it; tools that upload code use it too."""

from datetime import UTC, datetime
from typing import Any

from libs.core.store.client import Database, Document, StoreConflict, translated

_DOCUMENT_ID = "code"
_SETTLE_SECONDS = 600.0
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class CodeRetention:
    """The document ``code`` of the collection ``retention``: ``{keep_seconds, since}``.

    The tools and the masters may have different settings. The masters' setting counts.
    """

    def __init__(self, database: Database) -> None:
        self._retention = database["retention"]

    async def keep_seconds(self) -> float | None:
        """Return the retention of unreferenced code, 0 for ever; None before a master stored it."""
        with translated():
            document = await self._retention.find_one({"_id": _DOCUMENT_ID})
        value = document.get("keep_seconds") if document is not None else None
        return float(value) if isinstance(value, int | float) else None

    async def announce(self, keep_seconds: float) -> bool:
        """Store *keep_seconds* as the retention; return whether code may be removed by it.

        It may not until uploads under another value have been announced: for ten minutes, by the database's
        clock. May be repeated.
        """
        value: dict[str, Any] = {"$literal": keep_seconds}
        is_known = {"$eq": ["$keep_seconds", value]}
        # Without a document no upload used another value.
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
            # Of two concurrent upserts, the other one inserted it.
            with translated():
                await self._retention.update_one({"_id": _DOCUMENT_ID}, change)
