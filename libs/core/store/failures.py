"""Count failures of handling an event over all workers, so that it becomes a dead letter after a few."""

from datetime import UTC, datetime, timedelta

from pymongo import ReturnDocument

from libs.core.store.client import Database, Document, translated

_LIFE = timedelta(days=8)


class FailureStore:
    """The collection `event_failures`: `{_id: the message, failures, last_error, expires_at}`."""

    def __init__(self, database: Database) -> None:
        self._failures = database["event_failures"]

    async def ensure_indexes(self) -> None:
        """Create the index that expires old counts. May be repeated."""
        with translated():
            await self._failures.create_index("expires_at", expireAfterSeconds=0)

    async def count(self, message: str, error: str) -> int:
        """Count one more failure of *message* and return their number."""
        with translated():
            found: Document | None = await self._failures.find_one_and_update(
                {"_id": message},
                {
                    "$inc": {"failures": 1},
                    "$set": {"last_error": error[:1000], "expires_at": datetime.now(UTC) + _LIFE},
                },
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        return int(found["failures"]) if found is not None else 1
