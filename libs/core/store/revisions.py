"""The revisions of each bot: what its owner deployed, when, and what came of it; the source of a rollback.

A document has what a deploy needs: `config` without its literal secrets (`withheld` has their paths), and `custom`,
whose `filePath` keeps the code of the latest revisions from garbage collection. The bot's worker writes it when it
first reads a version, and again when the version is accepted or rejected. Every write may be repeated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from pymongo import ASCENDING, DESCENDING, UpdateOne

from libs.core.secrets.withholding import Path
from libs.core.store.client import Database, Document, translated
from libs.core.store.entities import Entity
from libs.core.store.numbers import with_integers
from libs.core.store.releases import version_name
from libs.core.store.runs import COLLECTION as RUNS

COLLECTION = "revisions"
KEPT = 50
"""The number of revisions kept per bot."""
WITH_CODE = 10
"""The number of revisions whose code is kept."""

BY_FIELD = "deployedBy"
"""In `custom`: who deployed the version with the `runtime` command."""


@dataclass(frozen=True)
class Revision:
    """One revision of a bot.

    Attributes:
        revision: as in the bot's document when a worker first read it.
        incarnation: the bot's document; one that is deleted and created again has another.
        key: identifies the event that made it.
        at: when a worker first read it.
        who: the user of the `runtime` command, else the owner that its document names; "" when unknown.
        config: without literal secrets; *withheld* has their paths.
        config_digest: SHA-256 of the whole config, as in the records of its runs.
        accepted: whether it could be started, and replaced the one before.
        code_etag: the version of the code object that was accepted; "" when unknown.
        rejection: why it was given up; "" when it was not.
    """

    bot_id: str
    revision: int
    incarnation: object
    key: str
    at: datetime
    who: str
    config: Mapping[str, Any]
    withheld: Sequence[Path]
    custom: Mapping[str, Any]
    config_digest: str
    accepted: bool = False
    code_etag: str = ""
    rejection: str = ""

    @property
    def version(self) -> str:
        """Its author's name of the version; may be ""."""
        return version_name(self.custom)


@dataclass(frozen=True)
class RunsOf:
    """The runs of one revision, as far as their records are kept.

    Attributes:
        seconds: how long they ran altogether, until now for the current one.
        last_reason: how the last one ended; "" while it runs.
    """

    revision: int
    runs: int
    seconds: float
    last_started_at: datetime
    last_ended_at: datetime | None = None
    last_reason: str = ""
    last_message: str = ""
    last_exit_code: int | None = None


class RevisionStore:
    """The collection ``revisions`` of a service's database. Its methods raise StoreUnavailable."""

    def __init__(self, database: Database, *, kept: int = KEPT, with_code: int = WITH_CODE) -> None:
        self._revisions = database[COLLECTION]
        self._runs = database[RUNS]
        self._kept = kept
        self._with_code = with_code

    async def ensure_indexes(self) -> None:
        """Create the indexes. May be repeated."""
        with translated():
            await self._revisions.create_index(
                [("incarnation", ASCENDING), ("revision", DESCENDING)], name="incarnation_revision"
            )
            await self._revisions.create_index(
                "keeps_code", name="keeps_code", partialFilterExpression={"keeps_code": True}
            )

    async def write(self, revisions: Sequence[Revision]) -> None:
        """Write *revisions*, and remove what is beyond the number kept. May be repeated.

        Raises:
            StoreConflict: another process wrote one of them at the same time; repeat it.
        """
        if not revisions:
            return
        with translated():
            result = await self._revisions.bulk_write([_upsert(one) for one in revisions], ordered=False)
        for index in result.upserted_ids or {}:
            await self._trim(revisions[index])

    async def of(self, entity: Entity) -> list[Revision]:
        """Return the revisions of a bot, the latest first."""
        with translated():
            found = self._revisions.find({"incarnation": entity.document["_id"]})
            return [_revision(document) async for document in found.sort("revision", DESCENDING).limit(self._kept)]

    async def runs_of(self, entity: Entity, now: datetime) -> list[RunsOf]:
        """Return the runs of a bot by revision, the latest revision first."""
        match: Document = {"entity_id": entity.id, "revision": {"$type": "number"}}
        created_at = getattr(entity.document["_id"], "generation_time", None)
        if created_at is not None:
            # Not those of an earlier bot of this id, whose revisions have the same numbers.
            match["started_at"] = {"$gte": created_at}
        ended_at = {"$ifNull": ["$ended_at", now]}
        last = {name: {"$last": f"${name}"} for name in ("started_at", "ended_at", "reason", "message", "exit_code")}
        pipeline: list[Document] = [
            {"$match": match},
            {"$sort": {"started_at": ASCENDING}},
            {
                "$group": {
                    "_id": "$revision",
                    "runs": {"$sum": 1},
                    "milliseconds": {"$sum": {"$max": [0, {"$subtract": [ended_at, "$started_at"]}]}},
                    **last,
                }
            },
            {"$sort": {"_id": DESCENDING}},
        ]
        with translated():
            return [_runs(found) async for found in await self._runs.aggregate(pipeline)]

    async def orphaned(self, collection: str, limit: int) -> list[object]:
        """Return incarnations whose documents no longer exist in the *collection* of entities."""
        pipeline: list[Document] = [
            {"$group": {"_id": "$incarnation"}},
            {"$lookup": {"from": collection, "localField": "_id", "foreignField": "_id", "as": "entity"}},
            {"$match": {"entity": []}},
            {"$limit": limit},
            {"$project": {"_id": 1}},
        ]
        with translated():
            return [found["_id"] async for found in await self._revisions.aggregate(pipeline)]

    async def count(self, incarnation: object) -> int:
        """Return the number of revisions of one incarnation."""
        with translated():
            return await self._revisions.count_documents({"incarnation": incarnation})

    async def remove(self, incarnation: object) -> int:
        """Remove the revisions of one incarnation, which never comes again; return how many. May be repeated."""
        with translated():
            return (await self._revisions.delete_many({"incarnation": incarnation})).deleted_count

    async def _trim(self, latest: Revision) -> None:
        own = {"incarnation": latest.incarnation}
        with translated():
            found = self._revisions.find(own, {"_id": 1}).sort("revision", DESCENDING)
            keys = [document["_id"] async for document in found]
            if without_code := keys[self._with_code : self._kept]:
                await self._revisions.update_many({"_id": {"$in": without_code}}, {"$set": {"keeps_code": False}})
            if beyond := keys[self._kept :]:
                await self._revisions.delete_many({"_id": {"$in": beyond}})


def _upsert(revision: Revision) -> UpdateOne:
    outcome: Document = {
        "accepted": revision.accepted,
        "code_etag": revision.code_etag,
        "rejection": revision.rejection,
    }
    first: Document = {
        "bot_id": revision.bot_id,
        "incarnation": revision.incarnation,
        "revision": revision.revision,
        "at": revision.at,
        "who": revision.who,
        "config": dict(revision.config),
        "withheld": [list(path) for path in revision.withheld],
        "custom": dict(revision.custom),
        "config_digest": revision.config_digest,
        "keeps_code": True,
    }
    # The outcome that another owner wrote stays: a new owner has not checked yet what runs.
    decided = {name: value for name, value in outcome.items() if value or revision.accepted}
    undecided = {name: value for name, value in outcome.items() if name not in decided}
    change: Document = {"$setOnInsert": first | undecided}
    if decided:
        change["$set"] = decided
    return UpdateOne({"_id": revision.key}, change, upsert=True)


def _revision(document: Document) -> Revision:
    at: datetime = document["at"]
    return Revision(
        bot_id=str(document["bot_id"]),
        revision=int(document["revision"]),
        incarnation=document["incarnation"],
        key=str(document["_id"]),
        at=at if at.tzinfo is not None else at.replace(tzinfo=UTC),
        who=str(document.get("who", "")),
        config=cast(Mapping[str, Any], with_integers(document.get("config") or {})),
        withheld=[tuple(path) for path in document.get("withheld", ())],
        custom=document.get("custom") or {},
        config_digest=str(document.get("config_digest", "")),
        accepted=bool(document.get("accepted")),
        code_etag=str(document.get("code_etag", "")),
        rejection=str(document.get("rejection", "")),
    )


def _runs(found: Document) -> RunsOf:
    return RunsOf(
        revision=int(found["_id"]),
        runs=int(found["runs"]),
        seconds=float(found["milliseconds"]) / 1000,
        last_started_at=found["started_at"],
        last_ended_at=found.get("ended_at"),
        last_reason=str(found.get("reason") or ""),
        last_message=str(found.get("message") or ""),
        last_exit_code=found.get("exit_code"),
    )
