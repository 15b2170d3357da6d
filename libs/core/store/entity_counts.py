"""Count the entities in each shown state."""

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pymongo
from pymongo import ASCENDING

from libs.core.store.client import Database, Document, translated
from libs.core.store.holds import Holds, HoldStore
from libs.core.store.ownership import Ownership, OwnershipReader
from libs.core.store.shown_state import OVERRIDABLE, UNOWNED_STATES, StoredStatus, shown
from libs.core.store.stored_status import STATUS_FIELDS, owner_of, stored_status

_LIMIT_SECONDS = 4.0
"""Time limit of a query over all entities, on the server too."""
_BATCH = 1000


class EntityCounts:
    """Counts the entities of a service. Raises StoreUnavailable."""

    def __init__(self, database: Database, collection: str) -> None:
        self._collection = database[collection]
        self._owners = OwnershipReader(database)
        self._holds = HoldStore(database)

    async def by_state(self) -> dict[str, int]:
        """Return the number of entities in each state."""
        groups = await self._groups({})
        return await self._counted(groups, await self._owners.all())

    async def unowned(self) -> dict[str, int]:
        """Return the same for entities in segments without a live owner, with every state that they may be in."""
        owners = await self._owners.all()
        unowned = [segment_id for segment_id, owner in owners.items() if not owner.is_live]
        # Not "in none of the others": that would read all entities, every few seconds.
        groups = await self._groups({"segment_id": {"$in": [*unowned, None]}})
        return dict.fromkeys(UNOWNED_STATES, 0) | (await self._counted(groups, owners) if groups else {})

    async def candidates(self, state: str) -> Document:
        """Return a filter that matches all entities shown in *state*, and few others.

        It uses the segment, the id and STATUS_FIELDS.
        """
        groups = await self._groups({})
        owners = await self._owners.all()
        holds = await self._holds.current()
        matching = [group for group in groups if state in _possible(group, owners, holds)]
        words = list({group.stored.state for group in matching})
        return {"segment_id": {"$in": list({group.segment for group in matching})}, "state": {"$in": words}}

    async def _groups(self, query: Document) -> list["_Group"]:
        key = {"segment": "$segment_id", **{name: f"${name}" for name in STATUS_FIELDS}}
        pipeline: list[Document] = [
            {"$match": query},
            {"$set": STATUS_FIELDS},
            {"$group": {"_id": key, "number": {"$sum": 1}}},
        ]
        with translated(), pymongo.timeout(_LIMIT_SECONDS):
            found = await self._collection.aggregate(pipeline)
            return [
                _Group(document["_id"].get("segment"), stored_status(document["_id"]), int(document["number"]))
                async for document in found
            ]

    async def _counted(self, groups: Iterable["_Group"], owners: Mapping[int, Ownership]) -> dict[str, int]:
        """Count by shown state. Holds count where no owner reports the state."""
        holds = await self._holds.current()
        on_all = holds.on_all()
        counts: Counter[str] = Counter()
        unreported: list[_Group] = []
        for group in groups:
            if _is_reported(group.stored, group.segment, owners):
                counts[_shown(group.stored, group.segment, owners)] += group.number
            else:
                unreported.append(group)
                counts[_shown(replace(group.stored, hold=on_all), group.segment, owners)] += group.number
        async for document in self._perhaps_held(holds, unreported):
            hold, stored = holds.on(document), stored_status(document)
            if hold != on_all and not _is_reported(stored, document.get("segment_id"), owners):
                counts[_shown(replace(stored, hold=on_all), document.get("segment_id"), owners)] -= 1
                counts[_shown(replace(stored, hold=hold), document.get("segment_id"), owners)] += 1
        return {state: number for state, number in counts.items() if number > 0}

    async def _perhaps_held(self, holds: Holds, groups: Sequence["_Group"]) -> AsyncGenerator[Document, None]:
        """Yield the entities of *groups* that may be held by something other than a hold on all entities."""
        kinds = {hold.target.kind for hold in holds}
        if not groups or kinds <= {"all"}:
            return
        ids: Document = {}
        query: Document = {"segment_id": {"$in": list({group.segment for group in groups})}}
        if "selector" not in kinds:
            ids = {"$in": [hold.target.value for hold in holds if hold.target.kind == "id"]}
        paths = {hold.target.path.split(".")[0] for hold in holds if hold.target.kind == "selector"}
        fields = dict.fromkeys(["id", "segment_id", *STATUS_FIELDS, *paths], 1) | ({} if "_id" in paths else {"_id": 0})
        while True:
            pipeline: list[Document] = [
                {"$match": query | ({"id": ids} if ids else {})},
                {"$sort": {"id": ASCENDING}},
                {"$limit": _BATCH},
                {"$set": STATUS_FIELDS},
                {"$project": fields},
            ]
            with translated(), pymongo.timeout(_LIMIT_SECONDS):
                found = [document async for document in await self._collection.aggregate(pipeline)]
            for document in found:
                yield document
            if len(found) < _BATCH:
                return
            ids = {**ids, "$gt": found[-1]["id"]}


@dataclass(frozen=True)
class _Group:
    """A number of entities of one segment with the same stored status."""

    segment: object
    stored: StoredStatus
    number: int


def _is_reported(stored: StoredStatus, segment: object, owners: Mapping[int, Ownership]) -> bool:
    """Whether the owner of a segment reports an entity's state."""
    owner = owner_of(owners, segment)
    return owner is not None and owner.is_live and stored.state not in OVERRIDABLE


def _shown(stored: StoredStatus, segment: object, owners: Mapping[int, Ownership]) -> str:
    return str(shown(stored, owner_of(owners, segment)).state)


def _possible(group: _Group, owners: Mapping[int, Ownership], holds: Holds) -> set[str]:
    """Return the states in which entities of *group* may be shown."""
    found = {_shown(group.stored, group.segment, owners)}
    if not _is_reported(group.stored, group.segment, owners):
        found |= {hold.state for hold in holds}
    return found
