"""Route queries to the workers that own the entities in question."""

import asyncio
import time
from dataclasses import replace

from prometheus_client import Histogram

from libs.core.errors import RuntimeFault
from libs.core.master.master import Master
from libs.core.master.registry import Worker
from libs.core.observability.log import get_logger
from libs.core.queries.messages import Query, QueryAnswer, QueryFault, failed
from libs.core.store.entities import EntityStore
from libs.core.store.releases import effective

log = get_logger(__name__)

SECONDS = Histogram(
    "runtime_query_seconds",
    "Duration of queries at the leading master, by outcome: ok, or why there is no answer of the bot's own code.",
    ["outcome"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
for _outcome in ("ok", *QueryFault):
    SECONDS.labels(_outcome)

_MOST = 1000
_LOOK_SECONDS = 0.05
_MARGIN_SECONDS = 0.5
"""How much longer than the worker the master waits, so that the worker's own answer arrives in time."""


class QueryRouter:
    """Asks the owner of an entity's segment, once more when the segment has just moved.

    Args:
        noun: of an entity, for messages.
        owner_seconds: how long to wait for an owner of the segment, and for another one when it has moved.
    """

    def __init__(self, entities: EntityStore, master: Master, noun: str, *, owner_seconds: float = 3.0) -> None:
        self._entities = entities
        self._master = master
        self._noun = noun
        self._owner_seconds = owner_seconds
        self._open = 0

    @property
    def leads(self) -> bool:
        """Whether this master can answer."""
        return self._master.leads

    async def answer(self, query: Query) -> QueryAnswer:
        """Return the answer to *query*; failures are answers as well."""
        begun = time.perf_counter()
        answer = failed(QueryFault.INTERNAL, "internal error; see the log of the master")
        try:
            answer = await self._bounded(query)
        except RuntimeFault as error:
            answer = failed(QueryFault.UNAVAILABLE, str(error))
        finally:
            SECONDS.labels(answer.fault or "ok").observe(time.perf_counter() - begun)
        return answer

    async def _bounded(self, query: Query) -> QueryAnswer:
        if self._open >= _MOST:
            return failed(QueryFault.TOO_MANY, f"this master answers {_MOST} queries at the same time; try again later")
        self._open += 1
        try:
            async with asyncio.timeout(query.timeout_seconds + 2 * _MARGIN_SECONDS):
                return await self._routed(query)
        except TimeoutError:
            return failed(QueryFault.TIMEOUT, f"no answer within {query.timeout_seconds:.3g} s")
        finally:
            self._open -= 1

    async def _routed(self, query: Query) -> QueryAnswer:
        deadline = time.monotonic() + query.timeout_seconds
        before: Worker | None = None
        for _ in range(2):
            # Read again: the entity may have moved to another segment.
            entity = await self._entities.get(query.entity_id)
            if entity is None:
                return failed(QueryFault.UNKNOWN, f"there is no {self._noun} {query.entity_id!r}")
            if entity.killed:
                text = f"this {self._noun} was killed: its code must not run before the kill is undone"
                return failed(QueryFault.UNAVAILABLE, text)
            if not effective(entity).entrypoints.get("query"):
                return failed(QueryFault.NO_ENTRYPOINT, f"this {self._noun} has no entrypoint `query`")
            worker = await self._owner(entity.segment_id, before, deadline)
            if worker is None:
                break
            if not worker.identity.answers_queries:
                text = f"the worker of this {self._noun} has an older version, which answers no queries"
                return failed(QueryFault.UNAVAILABLE, text)
            left = deadline - time.monotonic()
            if left <= 0 and before is None:
                raise TimeoutError
            if left <= 0:
                break
            asked = replace(query, segment_id=entity.segment_id, timeout_seconds=left)
            answer = await self._asked(worker, asked)
            if answer is not None and answer.fault is not QueryFault.MOVED:
                return answer
            before = worker
        return failed(QueryFault.MOVED, f"no worker owns this {self._noun} now: it moves or waits; try again later")

    async def _asked(self, worker: Worker, query: Query) -> QueryAnswer | None:
        async with asyncio.timeout(query.timeout_seconds + _MARGIN_SECONDS):
            return await self._master.ask(worker, query)

    async def _owner(self, segment_id: int, before: Worker | None, deadline: float) -> Worker | None:
        """Return the owner of a segment; wait a while for one, or for another one than *before*."""
        until = min(deadline, time.monotonic() + self._owner_seconds)
        while True:
            worker = self._master.owner_of(segment_id)
            is_new = worker is not None and (before is None or worker.session != before.session)
            if is_new or time.monotonic() >= until:
                return worker
            await asyncio.sleep(_LOOK_SECONDS)
