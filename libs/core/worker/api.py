"""The HTTP API of a worker: its state, and the live output of what it runs."""

import asyncio
import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from aiohttp import web

from libs.core.api.errors import NotStarted, Refused
from libs.core.api.log_output import FROM_STORAGE, FROM_WORKER, PARAMETERS, LogQuery, LogSource, Streams, send
from libs.core.api.operations import Asked, Operation, routes
from libs.core.errors import Retryable
from libs.core.http.reader import reader_in
from libs.core.process.process import runtime_version
from libs.core.process.service import ServiceDefinition
from libs.core.store.audit import AuditStore
from libs.core.store.entity_views import EntityViews
from libs.core.worker.worker import Worker, WorkerSnapshot

_STORE_SECONDS = 3.0


@dataclass(frozen=True)
class UsageView:
    """What an entity's container uses now, some seconds old at most.

    Attributes:
        cpus: number of CPUs in use; None until it is known.
        cpu_seconds: since the container's start.
    """

    cpus: float | None
    cpu_seconds: float
    memory_bytes: int
    memory_limit_bytes: int
    pids: int


UsageOf = Callable[[str], UsageView | None]
"""Returns the usage of an entity's container; None when none runs."""


def no_usage(entity_id: str) -> UsageView | None:
    """Return None: for a service whose containers are not measured."""
    return None


class WorkerApi:
    """``/api/v1`` of a worker. It answers that the worker is starting until it is opened."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._service: ServiceDefinition | None = None
        self._entities: EntityViews | None = None
        self._logs: LogSource | None = None
        self._audit: AuditStore | None = None
        self._usage: UsageOf = no_usage
        self._token = ""
        self._streams = Streams()

    def open(
        self,
        service: ServiceDefinition,
        worker: Worker,
        entities: EntityViews,
        logs: LogSource,
        *,
        token: str,
        audit: AuditStore | None = None,
        usage: UsageOf = no_usage,
    ) -> None:
        """Serve requests from now on.

        Args:
            token: required for output. A bot may reach its own worker's port, and must not read the output of
                other bots.
            audit: records who reads output.
            usage: of what runs here.
        """
        self._usage = usage
        self._service, self._worker, self._entities, self._logs = service, worker, entities, logs
        self._token = token
        self._audit = audit

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """Return the routes."""
        return routes(self.operations(), self.description)

    def operations(self) -> Sequence[Operation]:
        """All operations."""
        return (
            Operation("/status", "workerStatus", "Segments and state of this worker.", self._status, WorkerSnapshot),
            Operation(
                "/entities/{id}/logs",
                "workerLogs",
                "The output of an entity; `follow` streams new output.",
                self._send_logs,
                None,
                parameters=PARAMETERS,
                errors=(401, 404, 503),
                bounded=False,
                guarded=True,
            ),
            Operation(
                "/entities/{id}/usage",
                "workerUsage",
                "What the container of an entity uses now.",
                self._send_usage,
                UsageView,
                errors=(401, 404, 503),
                guarded=True,
            ),
        )

    def description(self) -> object:
        """Return the description of all operations."""
        from libs.core.api.openapi import description_of  # imported only when requested

        name = self._service.name if self._service is not None else "the0 runtime"
        return description_of(f"{name} worker", runtime_version(), self.operations())

    async def _status(self, asked: Asked) -> WorkerSnapshot:
        if self._worker is None:
            raise NotStarted("worker")
        return self._worker.snapshot()

    async def _send_usage(self, asked: Asked) -> UsageView:
        if self._worker is None:
            raise NotStarted("worker")
        self._check(asked)
        found = self._usage(asked.entity_id)
        if found is None:
            raise Refused(404, "nothing of that id runs here, or its usage is not known yet")
        return found

    def _check(self, asked: Asked) -> None:
        given = asked.request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {self._token}".encode()):
            raise Refused(401, "output of a worker requires its token; use the leading master instead")

    async def _send_logs(self, asked: Asked) -> web.StreamResponse:
        worker, logs, entities = self._worker, self._logs, self._entities
        if worker is None or logs is None or entities is None:
            raise NotStarted("worker")
        self._check(asked)
        entity_id, segment_id = asked.entity_id, None
        if self._audit is not None:
            await self._audit.output_read(reader_in(asked.request), entity_id)
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                entity = await entities.get(entity_id)
        except (Retryable, TimeoutError):
            if not logs.is_live(entity_id):
                raise
            is_known = True
        else:
            is_known = entity is not None
            segment_id = entity.segment if entity is not None else None

        def is_owned() -> bool:
            return worker.owns(segment_id) if segment_id is not None else logs.is_live(entity_id)

        owned = is_owned()
        # A container that is gone prints nothing more.
        query = LogQuery.of(asked.values, follow=asked.values["follow"] and is_known)
        if query.is_plain:
            pieces = logs.output(entity_id, tail_lines=query.tail, follow=query.follow)
        else:
            pieces = logs.records(entity_id, query)
        with self._streams:
            return await send(
                asked.request,
                pieces,
                json=query.json,
                source=FROM_WORKER if owned else FROM_STORAGE,
                is_known=is_known,
                # The next owner has the output from then on.
                goes_on=is_owned if owned else lambda: True,
            )
