"""The API of a master: workers, segments, entities, runs, and the output of one entity."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

from libs.core.api.answers import FAILURES, AuditPage, EntityPage, RunPage, SegmentPage, Summary, WorkerPage
from libs.core.api.errors import NotStarted, Refused
from libs.core.api.log_output import FROM_STORAGE, SOURCE, Streams, send
from libs.core.api.log_output import PARAMETERS as LOG_PARAMETERS
from libs.core.api.operations import Answer, Asked, Operation, routes
from libs.core.api.parameters import Parameter, choice, flag, moment, text, whole
from libs.core.api.remote_output import next_piece
from libs.core.bot_metrics import EntityMetrics
from libs.core.http.reader import WHO
from libs.core.master.leader_proxy import LeaderProxy
from libs.core.master.observatory import Observatory
from libs.core.master.status import MasterSnapshot, SegmentState, WorkerRole
from libs.core.process.process import runtime_version
from libs.core.store.audit import Action, AuditFilter
from libs.core.store.entity_views import EntityFilter, EntityView
from libs.core.store.runs import RunFilter

T = TypeVar("T")

LIMIT = whole("limit", "Maximum number of items.", least=1, most=1000, default=100)
SEGMENT = whole("segment", "Only items of this segment.", least=0, most=2**31 - 1)
STATE = text("state", "Only items in this state.")
PREFIX = text("prefix", "Only ids with this prefix.")
AFTER_ID = text("after", "Only items after this id: the `next` of the previous page.")
WORKERS: tuple[Parameter, ...] = (choice("role", "Only workers with this role.", list(WorkerRole)), AFTER_ID, LIMIT)
SEGMENTS: tuple[Parameter, ...] = (
    choice("state", "Only items in this state.", list(SegmentState)),
    whole("after", "Only items after this number: the `next` of the previous page.", least=0, most=2**31 - 1),
    LIMIT,
)
ENTITIES: tuple[Parameter, ...] = (STATE, SEGMENT, PREFIX, AFTER_ID, LIMIT)
RUNS: tuple[Parameter, ...] = (
    text("entity", "Only runs of this entity."),
    text("reason", "Only runs that ended for this reason."),
    flag("failed", f"Only failed runs: {', '.join(FAILURES)}."),
    moment("before", "Only runs that started earlier: the `next` of the previous page."),
    LIMIT,
)
AUDIT: tuple[Parameter, ...] = (
    text("entity", "Only entries about this entity."),
    text("who", "Only entries of this user or owner."),
    choice("action", "Only entries of this action.", list(Action)),
    moment("before", "Only earlier entries: the `next` of the previous page."),
    LIMIT,
)


class MasterApi:
    """``/api/v1`` of a master. It answers that the master starts until it is given something to look through."""

    def __init__(self) -> None:
        self._observatory: Observatory | None = None
        self._proxy: LeaderProxy | None = None
        self._streams = Streams()

    def open(self, observatory: Observatory, proxy: LeaderProxy) -> None:
        """Answer from now on; while another master leads, with its answers."""
        self._observatory = observatory
        self._proxy = proxy

    @property
    def observatory(self) -> Observatory:
        """What is known. Raises NotStarted."""
        if self._observatory is None:
            raise NotStarted("master")
        return self._observatory

    async def answer_of_leader(self, request: web.Request) -> web.Response | None:
        """Return the answer of another master, the leader; None when this one has to answer."""
        return await self._proxy.answer(request) if self._proxy is not None else None

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """What is to be answered."""
        return routes(self.operations(), self.description)

    def operations(self) -> Sequence[Operation]:
        """All operations."""
        return (
            Operation(
                "/status", "masterStatus", "The complete state known to this master.", self._status, MasterSnapshot
            ),
            Operation("/summary", "summary", "A summary of the service.", self._by_leader(self._summary), Summary),
            Operation("/workers", "workers", "The workers.", self._by_leader(self._workers), WorkerPage, WORKERS),
            Operation("/segments", "segments", "The segments.", self._by_leader(self._segments), SegmentPage, SEGMENTS),
            Operation("/entities", "entities", "The entities.", self._by_leader(self._entities), EntityPage, ENTITIES),
            Operation(
                "/entities/{id}", "entity", "One entity.", self._by_leader(self._entity), EntityView, errors=(404, 503)
            ),
            Operation(
                "/entities/{id}/metrics",
                "metrics",
                "The metrics that an entity has printed, with their last hour.",
                self._metrics,
                EntityMetrics,
                errors=(404, 503),
            ),
            Operation("/runs", "runs", "The runs, newest first.", self._runs, RunPage, RUNS),
            Operation("/audit", "audit", "The audit record, latest first.", self._audit, AuditPage, AUDIT),
            Operation(
                "/entities/{id}/logs",
                "logs",
                "The output of an entity, from the worker that owns it; `follow` streams new output.",
                lambda asked: self.send_logs(asked, asked.entity_id),
                None,
                parameters=LOG_PARAMETERS,
                errors=(404, 503),
                bounded=False,
            ),
        )

    def description(self) -> object:
        """Return the description of all operations."""
        from libs.core.api.openapi import description_of  # imported only when requested

        name = self._observatory.service.name if self._observatory is not None else "the0 runtime"
        return description_of(f"{name} master", runtime_version(), self.operations())

    async def send_logs(self, asked: Asked, entity_id: str) -> web.StreamResponse:
        """Forward the output from the worker that owns the entity, or from any other worker out of the storage."""
        observatory = self.observatory
        with self._streams:
            asked_for = asked.request.query
            more = {one.name: asked_for[one.name] for one in LOG_PARAMETERS if one.name in asked_for}
            answer = await observatory.output(
                entity_id,
                tail=asked.values["tail"],
                follow=asked.values["follow"],
                who=asked.request.get(WHO, ""),
                more=more,
            )
            with closing(answer):
                if answer.status == 404:
                    raise Refused(404, "no entity has that id, and there is no output of one")
                pieces = _pieces(answer)
                source = answer.headers.get(SOURCE, FROM_STORAGE)
                is_json = asked.values["format"] == "json"
                return await send(asked.request, pieces, source=source, is_known=True, json=is_json)

    async def note_reader(self, request: web.Request, entity_id: str | None) -> None:
        """Record who is sent the last lines of runs: those of an entity, or of all of them."""
        await self.observatory.note_reader(request.get(WHO, ""), entity_id)

    def _by_leader(self, answer: Answer) -> Answer:
        """Return an operation with the leader's answer, or that of *answer* when there is none."""

        async def answer_anywhere(asked: Asked) -> object:
            return await self.answer_of_leader(asked.request) or await answer(asked)

        return answer_anywhere

    async def _status(self, asked: Asked) -> MasterSnapshot:
        return self.observatory.snapshot()

    async def _summary(self, asked: Asked) -> Summary:
        return await self.observatory.summary()

    async def _workers(self, asked: Asked) -> WorkerPage:
        role = asked.values.pop("role")
        return await self.observatory.workers(role=WorkerRole(role) if role else None, **asked.values)

    async def _segments(self, asked: Asked) -> SegmentPage:
        state = asked.values.pop("state")
        return await self.observatory.segments(state=SegmentState(state) if state else None, **asked.values)

    async def _entities(self, asked: Asked) -> EntityPage:
        wanted = entity_filter(asked.values)
        return await self.observatory.entities(wanted, after=asked.values["after"], limit=asked.values["limit"])

    async def _entity(self, asked: Asked) -> EntityView:
        return self._existing(asked, await self.observatory.entity(asked.entity_id))

    async def _metrics(self, asked: Asked) -> EntityMetrics:
        return self._existing(asked, await self.observatory.metrics(asked.entity_id))

    def _existing(self, asked: Asked, found: T | None) -> T:
        if found is None:
            raise Refused(404, f"there is no {self.observatory.service.noun} {asked.entity_id!r}")
        return found

    async def _runs(self, asked: Asked) -> RunPage:
        found = await self.observatory.runs(run_filter(asked.values), limit=asked.values["limit"])
        await self.note_reader(asked.request, asked.values["entity"])
        return found

    async def _audit(self, asked: Asked) -> AuditPage:
        values = asked.values
        action = Action(values["action"]) if values["action"] else None
        wanted = AuditFilter(values["entity"], values["who"], action, values["before"])
        return await self.observatory.audit(wanted, limit=values["limit"])


def entity_filter(values: Mapping[str, Any]) -> EntityFilter:
    """Return the filter for the parameters of /entities."""
    return EntityFilter(state=values["state"], segment=values["segment"], id_prefix=values["prefix"])


def run_filter(values: Mapping[str, Any]) -> RunFilter:
    """Return the filter for the parameters of /runs."""
    reasons = [values["reason"]] if values["reason"] else None
    if values["failed"]:
        reasons = [reason for reason in FAILURES if reasons is None or reason in reasons]
    return RunFilter(entity_id=values["entity"], reasons=reasons, started_before=values["before"])


async def _pieces(answer: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    while piece := await next_piece(answer):
        yield piece
