"""Read, claim and change the saved state in the documents of entities. Each write is one conditional update."""

from typing import Any

from pymongo import ReturnDocument

from libs.core.saved_state import FIELD, SavedState
from libs.core.store.client import Database, Document, translated


class SavedStateStore:
    """The field ``saved_state`` of the entities in *collection*."""

    def __init__(self, database: Database, collection: str) -> None:
        self._entities = database[collection]

    async def read(self, entity_id: str) -> SavedState | None:
        """Return the state of an entity; None when there is no such entity."""
        with translated():
            document = await self._entities.find_one({"id": entity_id}, {FIELD: 1})
        return SavedState.of(document) if document is not None else None

    async def claim(self, entity_id: str, *, segment: int, epoch: int, run_id: str) -> SavedState | None:
        """Make *run_id* the run whose state is saved, and return what it begins with. May be repeated.

        Returns:
            None when there is no such entity in *segment*, or a later owner of it has claimed the state.
        """
        # Epochs of different segments cannot be compared; the document is in one of them only.
        not_later = [{f"{FIELD}.segment": {"$ne": segment}}, {f"{FIELD}.epoch": {"$lte": epoch}}]
        claimed = {"segment": segment, "epoch": epoch, "run_id": run_id}
        with translated():
            document: Document | None = await self._entities.find_one_and_update(
                {"id": entity_id, "segment_id": segment, "$or": not_later},
                {"$set": {f"{FIELD}.{name}": value for name, value in claimed.items()}},
                projection={FIELD: 1},
                return_document=ReturnDocument.AFTER,
            )
        return SavedState.of(document) if document is not None else None

    async def replace(self, entity_id: str, before: SavedState, after: SavedState) -> bool:
        """Write *after* if the state is still *before*; return whether it was."""
        unchanged: dict[str, Any] = {"id": entity_id}
        for name, empty in (("segment", -1), ("epoch", 0), ("run_id", ""), ("number", 0)):
            value = getattr(before, name)
            # None also matches a missing field.
            unchanged[f"{FIELD}.{name}"] = {"$in": [value, None]} if value == empty else value
        with translated():
            result = await self._entities.update_one(unchanged, {"$set": {FIELD: after.to_document()}})
        return result.matched_count > 0
