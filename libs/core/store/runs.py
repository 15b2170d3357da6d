"""The history of runs: what ran where and when, and why it ended. Records expire a set time after the end."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from pymongo import ASCENDING, DESCENDING, UpdateOne
from pymongo.errors import OperationFailure

from libs.core.run_record import RunRecord
from libs.core.store.client import Database, Document, StoreConflict, translated
from libs.core.store.leases import LeaseStore
from libs.core.store.stop_deadlines import StopDeadlines

COLLECTION = "runs"

_MAX_LINES = 50
_MAX_LINE_CHARACTERS = 1000
_TTL_INDEX = "ended_at_ttl"
_FORMER_INDEXES = ("started_at_-1", "reason_1_started_at_-1")
_INDEX_NOT_FOUND = 27
_INDEX_OPTIONS_CONFLICT = 85
_STOPPING: Document = {"stop_deadline": {"$gt": datetime.fromtimestamp(0, UTC)}}
_END_UNSEEN: Document = {"$or": [{"open": True}, {"presumed": True}]}


@dataclass(frozen=True, kw_only=True)
class RunFilter:
    """A filter of runs; None means any.

    Attributes:
        outside_segment_id: of any segment except this one, or still stopping after this one was given away.
        is_stopping: with a last deadline.
        ended_since: inclusive.
    """

    entity_id: str | None = None
    entity_ids: Collection[str] | None = None
    segment_id: int | None = None
    outside_segment_id: int | None = None
    is_stopping: bool = False
    worker_id: str | None = None
    reasons: Collection[str] | None = None
    open: bool | None = None
    started_before: datetime | None = None
    started_after: datetime | None = None
    ended_since: datetime | None = None


class RunStore:
    """The collection ``runs`` of a service's database.

    Args:
        keep_days: retention after the end. The record of an open run does not expire.
    """

    def __init__(self, database: Database, keep_days: float = 30.0) -> None:
        self._database = database
        self._runs = database[COLLECTION]
        self._keep_seconds = max(1, int(keep_days * 86_400))

    async def ensure_indexes(self) -> None:
        """Create the indexes, and update a former retention. May be repeated.

        Raises:
            StoreUnavailable: retry later.
        """
        with translated():
            await self._runs.create_index([("entity_id", ASCENDING), ("started_at", DESCENDING)])
            # Of all runs or the failed ones, with the ids by which equal times are ordered: a page is read in order.
            await self._runs.create_index([("started_at", DESCENDING), ("_id", ASCENDING)])
            await self._runs.create_index([("reason", ASCENDING), ("started_at", DESCENDING), ("_id", ASCENDING)])
            # They lack the ids by which pages are ordered; each would only slow down writes.
            for name in _FORMER_INDEXES:
                await self._drop_index(name)
            # Open runs only: few, however long the history is.
            await self._runs.create_index(
                [("segment_id", ASCENDING), ("worker_id", ASCENDING)],
                name="open_runs",
                partialFilterExpression={"open": True},
            )
            # Queried before each run: its duration must not depend on the length of an entity's history.
            await self._runs.create_index(
                [("entity_id", ASCENDING), ("segment_id", ASCENDING)],
                name="open_runs_by_entity",
                partialFilterExpression={"open": True},
            )
            try:
                await self._runs.create_index("ended_at", name=_TTL_INDEX, expireAfterSeconds=self._keep_seconds)
            except OperationFailure as error:
                if error.code != _INDEX_OPTIONS_CONFLICT:
                    raise
                index = {"name": _TTL_INDEX, "expireAfterSeconds": self._keep_seconds}
                await self._database.command("collMod", COLLECTION, index=index)

    async def _drop_index(self, name: str) -> None:
        try:
            await self._runs.drop_index(name)
        except OperationFailure as error:
            if error.code != _INDEX_NOT_FOUND:
                raise

    async def start(self, record: RunRecord) -> None:
        """Record the start of a run. Repeating it changes nothing.

        Raises:
            StoreUnavailable: outcome unknown; repeat it.
        """
        with translated():
            await self._runs.update_one({"_id": record.run_id}, {"$setOnInsert": _document(record)}, upsert=True)

    async def withdraw(self, run_id: str) -> None:
        """Remove the record of a run that never had a container. One that has ended stays. May be repeated.

        Raises:
            StoreUnavailable: outcome unknown; repeat it.
        """
        with translated():
            await self._runs.delete_one({"_id": run_id, "open": True})

    async def start_many(self, records: Sequence[RunRecord]) -> None:
        """Record the start of these runs like :meth:`start`, in one request.

        Raises:
            StoreUnavailable: outcome unknown; repeat it.
        """
        writes = [UpdateOne({"_id": r.run_id}, {"$setOnInsert": _document(r)}, upsert=True) for r in records]
        if writes:
            with translated():
                await self._runs.bulk_write(writes, ordered=False)

    async def adopt(
        self,
        run_id: str,
        *,
        worker_id: str,
        epoch: int,
        container_id: str | None = None,
        code_digest: str | None = None,
        started_at: datetime | None = None,
    ) -> bool:
        """Record the current owner of the run, and facts unknown at its start. Return False if its end was observed.

        A presumed end is removed: the adopting owner has observed the run alive.

        Args:
            container_id, code_digest, started_at: None keeps the stored value.
        """
        now = {
            "worker_id": worker_id,
            "epoch": epoch,
            "container_id": container_id,
            "code_digest": code_digest,
            "started_at": started_at,
        }
        known = {name: value for name, value in now.items() if value is not None}
        alive = {"open": True, "presumed": False, "reason": None, "message": None}
        with translated():
            result = await self._runs.update_one(
                {"_id": run_id, **_END_UNSEEN},
                {"$set": {**known, **alive}, "$unset": {"ended_at": ""}},
            )
        return result.matched_count > 0

    async def finish(self, record: RunRecord) -> bool:
        """Record how a run ended, also when its start was never recorded.

        The first observed end stays; it replaces a presumed one. May be repeated.

        Returns:
            Whether this end is the one that stays; False if another one was recorded before.

        Raises:
            StoreUnavailable: outcome unknown; repeat it.
            ValueError: the record has no end.
        """
        if record.ended_at is None or record.reason is None:
            raise ValueError(f"run {record.run_id!r} has not ended")
        document = _document(replace(record, presumed=False))
        # Twice, since the start may be recorded between the two halves of an upsert, its read and its insert.
        for _ in range(2):
            # If an end is recorded the filter matches nothing, and the insertion conflicts with the unique _id.
            with suppress(StoreConflict), translated():
                await self._runs.replace_one({"_id": record.run_id, **_END_UNSEEN}, document, upsert=True)
                return True
        return False

    async def close_open(
        self,
        *,
        reason: str,
        message: str,
        ended_at: datetime,
        segment_id: int | None = None,
        worker_id: str | None = None,
        entity_id: str | None = None,
        before_epoch: int | None = None,
        keep: Collection[str] = (),
        are_over: bool = False,
    ) -> int:
        """Close runs whose end was not observed, such as those of a dead worker, as *presumed*; return how many.

        Args:
            before_epoch: only those started or adopted under an older lease.
            keep: ids of runs that are known to be active.
            are_over: also those with a last deadline; the caller knows that their containers are gone.

        Raises:
            ValueError: none of segment, worker and entity is given.
        """
        who = {"segment_id": segment_id, "worker_id": worker_id, "entity_id": entity_id}
        query: Document = {name: value for name, value in who.items() if value is not None}
        if not query:
            raise ValueError("without a filter this would close all open runs")
        query["open"] = True
        if not are_over:
            query["stop_deadline"] = None
        if before_epoch is not None:
            query["epoch"] = {"$lt": before_epoch}
        if keep:
            query["_id"] = {"$nin": list(keep)}
        end = {"open": False, "presumed": True, "reason": reason, "message": message, "ended_at": ended_at}
        with translated():
            result = await self._runs.update_many(query, {"$set": end})
        return result.modified_count

    async def promise_ends(self, segment_id: int, *, epoch: int, seconds: float) -> None:
        """Record for the open runs of a segment that their containers are gone *seconds* from now, by MongoDB's time.

        Args:
            epoch: of the owner; later owners' runs are not included, and what earlier owners have promised stays.

        Raises:
            StoreUnavailable: outcome unknown.
        """
        deadline = {"$add": ["$$NOW", round(seconds * 1000)]}
        with translated():
            await self._runs.update_many(
                {
                    "segment_id": segment_id,
                    "open": True,
                    "$or": [{"epoch": epoch}, {"epoch": {"$lt": epoch}, "stop_deadline": None}],
                },
                [{"$set": {"stop_deadline": deadline, "stop_seconds": seconds}}],
            )

    async def get(self, run_id: str) -> RunRecord | None:
        """Return the run, or None if it is unknown or expired."""
        with translated():
            document = await self._runs.find_one({"_id": run_id})
        return _record(document) if document is not None else None

    async def list(self, wanted: RunFilter | None = None, *, limit: int = 100) -> list[RunRecord]:
        """Return matching runs, newest start first, at most *limit*; 0 means no limit."""
        query = _query(wanted or RunFilter())
        with translated():
            cursor = self._runs.find(query).sort([("started_at", DESCENDING), ("_id", ASCENDING)]).limit(limit)
            return [_record(document) async for document in cursor]

    async def number(self, record: RunRecord) -> int:
        """Return the run's position among the stored runs of its entity; the first is 1."""
        with translated():
            earlier = {"entity_id": record.entity_id, "started_at": {"$lt": record.started_at}}
            return 1 + await self._runs.count_documents(earlier)

    async def numbered(self, entity_id: str, number: int) -> RunRecord | None:
        """Return the run with this number, as in :meth:`number`; None without one. 0 is the latest run."""
        order = ASCENDING if number else DESCENDING
        with translated():
            cursor = self._runs.find({"entity_id": entity_id}).sort([("started_at", order), ("_id", ASCENDING)])
            found = [document async for document in cursor.skip(max(0, number - 1)).limit(1)]
        return _record(found[0]) if found else None

    async def reasons(self, ended_since: datetime) -> dict[str, int]:
        """Return how many runs ended since then, by reason. Reads all of them."""
        pipeline: list[Document] = [
            {"$match": {"ended_at": {"$gte": ended_since}}},
            {"$group": {"_id": "$reason", "number": {"$sum": 1}}},
        ]
        with translated():
            groups = await self._runs.aggregate(pipeline)
            return {str(group["_id"]): int(group["number"]) async for group in groups}


class LiveRuns:
    """Runs that may be alive. A record without an end proves nothing when its worker and host are gone.

    So open records are compared with the leases under which their containers live.
    """

    def __init__(self, runs: RunStore, leases: LeaseStore) -> None:
        self._runs = runs
        self._leases = leases
        self._deadlines = StopDeadlines()

    async def of(self, entity_ids: Collection[str], *, outside: int | None = None) -> dict[str, str]:
        """Return those of these entities that may have a live container, with its worker.

        Args:
            outside: only in other segments than this one, or stopping after this one was given away. An entity that
                is deleted and recreated may get another segment while its old owner still stops it, which takes up to
                the grace period of a stop.

        Raises:
            StoreUnavailable: unknown.
        """
        wanted = RunFilter(entity_ids=entity_ids, open=True, outside_segment_id=outside)
        found = await self._runs.list(wanted, limit=0)
        stopping = {run.run_id for run in found if self.may_still_stop(run)}
        others = [run for run in found if run.run_id not in stopping and run.segment_id != outside]
        # It reads all partitions, and is needed several times a second while a bot waits for a container to stop.
        leases = {lease.segment_id: lease for lease in await self._leases.live()} if others else {}
        alive = stopping | {run.run_id for run in others if run.may_live_under(leases.get(run.segment_id))}
        return {run.entity_id: run.worker_id for run in found if run.run_id in alive}

    def may_still_stop(self, run: RunRecord) -> bool:
        """Whether its container may still stop after its segment was given away."""
        return self._leases.may_still_stop(self._deadlines, run)

    async def stopping(self, segment_id: int) -> list[str]:
        """Return the ids of the segment's open runs whose containers may still stop. Raises StoreUnavailable."""
        found = await self._runs.list(RunFilter(segment_id=segment_id, open=True, is_stopping=True), limit=0)
        return [run.run_id for run in found if self.may_still_stop(run)]


def _query(wanted: RunFilter) -> Document:
    query: Document = {
        name: value
        for name in ("entity_id", "segment_id", "worker_id", "open")
        if (value := getattr(wanted, name)) is not None
    }
    if wanted.outside_segment_id is not None:
        query["$or"] = [{"segment_id": {"$ne": wanted.outside_segment_id}}, _STOPPING]
    if wanted.is_stopping:
        query |= _STOPPING
    if wanted.reasons is not None:
        query["reason"] = {"$in": list(wanted.reasons)}
    if wanted.entity_ids is not None:
        query["entity_id"] = {"$in": list(wanted.entity_ids)}
    if wanted.ended_since is not None:
        query["ended_at"] = {"$gte": wanted.ended_since}
    bounds = {"$lt": wanted.started_before, "$gt": wanted.started_after}
    started = {operator: bound for operator, bound in bounds.items() if bound is not None}
    if started:
        query["started_at"] = started
    return query


def _document(record: RunRecord) -> Document:
    document = asdict(record)
    document["_id"] = document.pop("run_id")
    document["last_lines"] = [_storable(line) for line in record.last_lines[-_MAX_LINES:]]
    document["open"] = record.ended_at is None
    # The TTL index uses this field, and ignores documents without it.
    if record.ended_at is None:
        del document["ended_at"]
    return document


def _storable(line: str) -> str:
    """Limit the length, and drop lone surrogates, which cannot be encoded in UTF-8."""
    return line[:_MAX_LINE_CHARACTERS].encode("utf-8", "replace").decode()


def _record(document: Mapping[str, Any]) -> RunRecord:
    known = {field.name for field in fields(RunRecord)}
    values = {name: value for name, value in document.items() if name in known}
    values["last_lines"] = tuple(document.get("last_lines", ()))
    return RunRecord(run_id=document["_id"], **values)
