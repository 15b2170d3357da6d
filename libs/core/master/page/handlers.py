"""The pages: each reads its data, and shows an error for data that cannot be read."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

from aiohttp import web

from libs.core.api.answers import FAILURES, RunView
from libs.core.api.errors import Refused
from libs.core.api.headers import PAGE
from libs.core.api.log_output import PARAMETERS as LOG_PARAMETERS
from libs.core.api.operations import ANSWER_SECONDS, Asked, or_error
from libs.core.api.parameters import BadParameter, Parameter, text, values_of
from libs.core.errors import Retryable
from libs.core.master import api
from libs.core.master.api import MasterApi, entity_filter, run_filter
from libs.core.master.page.rendering import asset, render
from libs.core.master.status import SegmentState, WorkerRole
from libs.core.store.runs import RunFilter
from libs.core.timestamps import parse_rfc3339

_ASSETS = {"status.css": "text/css", "status.js": "text/javascript", "icon.svg": "image/svg+xml"}
_ID = text("id", "Whose.")
_ROWS = 50
_RECENT = 10
_OF_ONE = 5
_COUNTED_FAILURES = 500
_OVERVIEW_SECONDS = 3.0

Show = Callable[[dict[str, Any], dict[str, str]], Awaitable[tuple[str, dict[str, Any]]]]
"""Returns the template and its values, given the parameters by name and the raw query."""

WhoseOutput = Callable[[dict[str, Any]], str | None]
"""Returns, given the parameters, the entity whose output a page shows; None for that of all."""


class StatusPage:
    """All pages of one master, with data from its API."""

    def __init__(self, shown: MasterApi) -> None:
        self._api = shown

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """Return the routes."""
        return [
            web.get("/", self._page("/", (), self._overview, whose_output=_of_all)),
            web.get("/entities", self._page("/entities", _without_limit(api.ENTITIES), self._entities)),
            web.get("/entity", self._page("/entities", (_ID,), self._entity, whose_output=itemgetter("id"))),
            web.get(
                "/runs",
                self._page("/runs", _without_limit(api.RUNS), self._runs, whose_output=itemgetter("entity")),
            ),
            web.get("/workers", self._page("/workers", _without_limit(api.WORKERS), self._workers)),
            web.get("/segments", self._page("/segments", _without_limit(api.SEGMENTS), self._segments)),
            web.get("/log", self._log),
            *(web.get(f"/page/{name}", _asset(name, content_type)) for name, content_type in _ASSETS.items()),
        ]

    def _page(
        self, here: str, parameters: Sequence[Parameter], show: Show, *, whose_output: WhoseOutput | None = None
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Return the handler of a page. One that shows the last lines of runs is recorded, by *whose_output*."""

        async def handle(request: web.Request) -> web.Response:
            if (answer := await self._api.answer_of_leader(request)) is not None:
                return answer
            status = 200
            # A form also sends its empty fields.
            query = {name: value for name, value in request.query.items() if value}
            try:
                values = values_of(parameters, query)
                async with asyncio.timeout(ANSWER_SECONDS):
                    template, shown = await show(values, query)
                status = shown.pop("status", 200)
                # Without its data the page shows no output, and no entry could be stored.
                if whose_output is not None and not shown.get("problem"):
                    await self._api.note_reader(request, whose_output(values))
            except BadParameter as error:
                status, template, shown = 400, "problem.html", _problem("Invalid search", str(error))
            except Refused as refused:
                status, template = refused.status, "problem.html"
                shown = {**_problem("Not available", str(refused), try_again=True), "leader_url": refused.leader}
            except (Retryable, TimeoutError) as fault:
                reason = str(fault) or f"MongoDB did not answer within {ANSWER_SECONDS:g} s"
                status, template = 503, "problem.html"
                shown = _problem("The data cannot be read", reason, try_again=True)
            content = await asyncio.to_thread(render, template, {**self._frame(here), "query": query, **shown})
            return web.Response(text=content, status=status, content_type="text/html", headers=PAGE)

        return handle

    def _frame(self, here: str) -> dict[str, Any]:
        """Return the values that every page shows."""
        try:
            observatory = self._api.observatory
        except Refused:
            return {"service": "the0 runtime", "noun": "", "nouns": "", "known": None, "here": here, "pages": []}
        service = observatory.service
        nouns = f"{service.noun}s"
        pages = [
            ("/", "Overview"),
            ("/entities", nouns.capitalize()),
            ("/runs", "Runs"),
            ("/workers", "Workers"),
            ("/segments", "Segments"),
        ]
        known = observatory.snapshot()
        return {
            "service": service.name,
            "noun": service.noun,
            "nouns": nouns,
            "known": known,
            "here": here,
            "pages": pages,
        }

    # --- the pages

    async def _overview(self, values: dict[str, Any], query: dict[str, str]) -> tuple[str, dict[str, Any]]:
        observatory = self._api.observatory
        known = observatory.snapshot()
        segments = known.segment_counts()
        shown: dict[str, Any] = {
            "leader_url": None,
            "workers": _by_name(known.worker_counts()) if known.leads else None,
            "segments": _by_name(segments) if known.leads else None,
            "waiting": segments[SegmentState.WAITING] if known.leads else 0,
            "entities": None,
            "ended": None,
            "failures": None,
            "recent": None,
            "problem": "",
        }
        # The master's own state is shown even while MongoDB is unavailable.
        try:
            async with asyncio.timeout(_OVERVIEW_SECONDS):
                shown["leader_url"] = await observatory.leader_url()
                shown["entities"] = await observatory.counts()
                shown["ended"] = await observatory.ended()
                failed = RunFilter(reasons=FAILURES, started_after=datetime.now(UTC) - timedelta(days=1))
                shown["failures"] = _by_entity((await observatory.runs(failed, limit=_COUNTED_FAILURES)).runs)
                shown["recent"] = (await observatory.runs(RunFilter(), limit=_RECENT)).runs
        except (Retryable, TimeoutError) as fault:
            shown["problem"] = str(fault) or f"MongoDB did not answer within {_OVERVIEW_SECONDS:g} s"
        return "overview.html", shown

    async def _entities(self, values: dict[str, Any], query: dict[str, str]) -> tuple[str, dict[str, Any]]:
        observatory = self._api.observatory
        page = await observatory.entities(entity_filter(values), after=values["after"], limit=_ROWS)
        states = set(await observatory.counts()) | ({values["state"]} if values["state"] else set())
        return "entities.html", {"page": page, "states": sorted(states)}

    async def _entity(self, values: dict[str, Any], query: dict[str, str]) -> tuple[str, dict[str, Any]]:
        observatory, entity_id = self._api.observatory, values["id"]
        if entity_id is None:
            raise BadParameter("id", "given")
        entity = await observatory.entity(entity_id)
        runs = (await observatory.runs(RunFilter(entity_id=entity_id), limit=_OF_ONE)).runs
        status = 200 if entity is not None or runs else 404
        updated = _moment(entity.updated_at) if entity is not None else None
        shown = {"id": entity_id, "entity": entity, "updated": updated, "runs": runs, "status": status}
        return "entity.html", {**shown, "metrics": await observatory.metrics(entity_id)}

    async def _runs(self, values: dict[str, Any], query: dict[str, str]) -> tuple[str, dict[str, Any]]:
        return "runs.html", {"page": await self._api.observatory.runs(run_filter(values), limit=_ROWS)}

    async def _workers(self, values: dict[str, Any], query: dict[str, str]) -> tuple[str, dict[str, Any]]:
        role = WorkerRole(values["role"]) if values["role"] else None
        page = await self._api.observatory.workers(after=values["after"], limit=_ROWS, role=role)
        return "workers.html", {"page": page}

    async def _segments(self, values: dict[str, Any], query: dict[str, str]) -> tuple[str, dict[str, Any]]:
        state = SegmentState(values["state"]) if values["state"] else None
        page = await self._api.observatory.segments(after=values["after"], limit=_ROWS, state=state)
        return "segments.html", {"page": page}

    async def _log(self, request: web.Request) -> web.StreamResponse:
        """Send the output of one entity: the API operation with the id as a parameter, which browsers keep as it is."""
        return await or_error(self._send_log(request))

    async def _send_log(self, request: web.Request) -> web.StreamResponse:
        values = values_of((_ID, *LOG_PARAMETERS), request.query)
        entity_id = values.pop("id")
        if entity_id is None:
            raise BadParameter("id", "given")
        return await self._api.send_logs(Asked(request, values), entity_id)


def _asset(name: str, content_type: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        content = await asyncio.to_thread(asset, name)
        return web.Response(body=content, content_type=content_type, charset="utf-8")

    return handle


def _without_limit(parameters: Sequence[Parameter]) -> tuple[Parameter, ...]:
    return tuple(parameter for parameter in parameters if parameter is not api.LIMIT)


def _of_all(values: dict[str, Any]) -> None:
    return None


def _problem(title: str, reason: str, *, try_again: bool = False) -> dict[str, Any]:
    return {"title": title, "reason": reason, "try_again": try_again, "leader_url": None}


def _by_name(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(name): number for name, number in counts.items()}


def _by_entity(failures: Sequence[RunView]) -> list[tuple[RunView, int]]:
    """Return the latest failure of each entity and its number of failures, so that frequent failures hide no others."""
    latest: dict[str, RunView] = {}
    times = Counter(run.entity_id for run in failures)
    for run in failures:
        latest.setdefault(run.entity_id, run)
    return [(run, times[run.entity_id]) for run in list(latest.values())[:_RECENT]]


def _moment(written: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(parse_rfc3339(written).nanoseconds / 1e9, UTC)
    except (ValueError, OverflowError):
        return None
