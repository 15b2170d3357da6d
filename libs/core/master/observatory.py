"""The data that a master shows about its service: its own view of workers and segments, and the state in MongoDB."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import aiohttp

from libs.core.api import remote_output
from libs.core.api.answers import AuditPage, EntityPage, RunPage, SegmentPage, Summary, WorkerPage, by_outcome, run_view
from libs.core.api.errors import Refused
from libs.core.bot_metrics import EntityMetrics
from libs.core.errors import RuntimeFault
from libs.core.master.room_report import rooms_of
from libs.core.master.status import MasterSnapshot, SegmentState, WorkerRole, unplaced
from libs.core.process.service import ServiceDefinition
from libs.core.room import missing
from libs.core.store.audit import AuditFilter, AuditStore
from libs.core.store.bot_metrics import BotMetricsStore
from libs.core.store.client import Database
from libs.core.store.entity_views import EntityFilter, EntityView, EntityViews
from libs.core.store.ownership import OwnershipReader
from libs.core.store.processes import ProcessStore
from libs.core.store.runs import RunFilter, RunStore
from libs.core.store.shown_state import ShownState

_COUNTED_SECONDS = 2.0
_ENDED_COUNTED_SECONDS = 10.0
_ENDED_WITHIN = timedelta(days=1)


_WITHOUT_WORKER = (ShownState.WAITING, ShownState.UNKNOWN)


class Observatory:
    """Reads only. Reads of MongoDB raise StoreUnavailable.

    Args:
        snapshot: returns what this master knows now.
    """

    def __init__(self, service: ServiceDefinition, database: Database, snapshot: Callable[[], MasterSnapshot]) -> None:
        self.service = service
        self.snapshot = snapshot
        self._entities = EntityViews(database, service.collection)
        self._runs = RunStore(database)
        self._audit = AuditStore(database)
        self._metrics = BotMetricsStore(database, service.collection)
        self._owners = OwnershipReader(database)
        self._processes = ProcessStore(database)
        self._session: aiohttp.ClientSession | None = None
        self._counts: tuple[float, dict[str, int]] | None = None
        self._ended: tuple[float, dict[str, int]] | None = None

    async def close(self) -> None:
        """Close the connections to workers. Closing twice is harmless."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def summary(self) -> Summary:
        """Return a summary of the service."""
        known = self.snapshot()
        return Summary(
            service=self.service.name,
            master=known.master_id,
            leads=known.leads,
            leader=known.leader,
            leader_url=await self.leader_url(),
            problem=known.problem,
            workers={str(role): number for role, number in known.worker_counts().items()} if known.leads else None,
            segments={str(state): number for state, number in known.segment_counts().items()} if known.leads else None,
            max_segment=known.max_segment,
            entities=await self.counts(),
            ended=await self.ended(),
        )

    async def leader_url(self) -> str | None:
        """Return the leader's HTTP address; None when it is unknown, or this master leads."""
        known = self.snapshot()
        if known.leads or known.leader is None:
            return None
        try:
            leader = await self._processes.find("master", known.leader)
        except RuntimeFault:
            return None
        return leader.urls[0] if leader is not None and leader.urls else None

    async def workers(self, *, after: str | None, limit: int, role: WorkerRole | None = None) -> WorkerPage:
        """Return workers by id. Raises Refused when this master does not lead."""
        known = await self._as_leader()
        wanted = sorted((w for w in known.workers if role in (None, w.role)), key=lambda worker: worker.worker_id)
        page = [worker for worker in wanted if after is None or worker.worker_id > after][: limit + 1]
        more = page[limit - 1].worker_id if len(page) > limit else None
        return WorkerPage(page[:limit], len(wanted), more)

    async def segments(self, *, after: int | None, limit: int, state: SegmentState | None = None) -> SegmentPage:
        """Return segments with entities, by number. Raises Refused when this master cannot show them."""
        known = await self._as_leader()
        if known.surveyed_seconds_ago is None:
            raise Refused(503, f"the segments have not been read yet{': ' if known.problem else ''}{known.problem}")
        wanted = [segment for segment in known.segments if state in (None, segment.state)]
        page = [segment for segment in wanted if after is None or segment.segment_id > after][: limit + 1]
        more = page[limit - 1].segment_id if len(page) > limit else None
        return SegmentPage(page[:limit], len(wanted), more)

    async def counts(self) -> dict[str, int]:
        """Return the number of entities in each state; up to two seconds old, since it reads all of them."""
        if self._counts is None or time.monotonic() - self._counts[0] > _COUNTED_SECONDS:
            self._counts = (time.monotonic(), await self._entities.counts())
        return self._counts[1]

    async def ended(self) -> dict[str, int]:
        """Return the number of runs that ended in the last 24 hours, by outcome; up to ten seconds old."""
        if self._ended is None or time.monotonic() - self._ended[0] > _ENDED_COUNTED_SECONDS:
            reasons = await self._runs.reasons(datetime.now(UTC) - _ENDED_WITHIN)
            self._ended = (time.monotonic(), by_outcome(reasons))
        return self._ended[1]

    async def entities(self, wanted: EntityFilter, *, after: str | None, limit: int) -> EntityPage:
        """Return entities by id."""
        found = self._with_missing(await self._entities.find(wanted, after=after, limit=limit + 1))
        return EntityPage(found[:limit], found[limit - 1].id if len(found) > limit else None)

    async def entity(self, entity_id: str) -> EntityView | None:
        """Return one entity, or None."""
        found = await self._entities.get(entity_id)
        return self._with_missing([found])[0] if found is not None else None

    async def metrics(self, entity_id: str) -> EntityMetrics | None:
        """Return the metrics that an entity has printed; None when there is no such entity."""
        return await self._metrics.of(entity_id)

    async def runs(self, wanted: RunFilter, *, limit: int) -> RunPage:
        """Return runs, newest first."""
        listed = await self._runs.list(wanted, limit=limit + 1)
        owners = await self._owners.of(run.segment_id for run in listed if run.ended_at is None)
        found = [run_view(run, owners.get(run.segment_id)) for run in listed]
        more: datetime | None = found[limit - 1].started_at if len(found) > limit else None
        return RunPage(found[:limit], more)

    async def note_reader(self, who: str, entity_id: str | None) -> None:
        """Record that *who* reads the last lines of runs: those of an entity, or of all of them."""
        await self._audit.output_read(who, entity_id or "all")

    async def output(
        self, entity_id: str, *, tail: int, follow: bool, who: str, more: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        """Return a worker's response with an entity's output; the caller closes it. Raises Refused without one.

        Args:
            who: on whose behalf, for the audit record.
            more: further parameters of the operation.
        """
        entity = await self._entities.get(entity_id)
        workers = await remote_output.who_to_ask(self._processes, entity.segment if entity is not None else None)
        if self._session is None:
            self._session = remote_output.new_session()
        answer = await remote_output.ask(
            self._session, workers, entity_id, tail=tail, follow=follow, who=who, more=more
        )
        if answer is None:
            raise Refused(503, "no worker is available to read the output; try again later")
        return answer

    def _with_missing(self, found: list[EntityView]) -> list[EntityView]:
        """Return *found*, with the missing room or labels of waiting entities; only the leader knows them."""
        if all(view.lacking is None and view.state not in _WITHOUT_WORKER for view in found):
            return found
        known = self.snapshot()
        if labels := unplaced(known):
            found = [
                (
                    replace(view, missing=labels[view.segment])
                    if view.state in _WITHOUT_WORKER and view.segment in labels
                    else view
                )
                for view in found
            ]
        rooms = rooms_of(known)
        lacks = {view.id: missing(view.lacking, rooms) for view in found if view.lacking is not None}
        return [replace(view, missing=str(lacks[view.id])) if lacks.get(view.id) else view for view in found]

    async def audit(self, wanted: AuditFilter, *, limit: int) -> AuditPage:
        """Return entries of the audit record, the latest first."""
        found = await self._audit.list(wanted, limit=limit)
        return AuditPage(found, found[-1].at if len(found) == limit else None)

    async def _as_leader(self) -> MasterSnapshot:
        known = self.snapshot()
        if not known.leads:
            who = f"{known.leader} leads" if known.leader is not None else "no master leads now"
            raise Refused(503, f"this master is on standby and has no workers: {who}", await self.leader_url())
        return known
