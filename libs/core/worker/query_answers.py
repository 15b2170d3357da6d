"""Answers to the queries that a master sends on the worker's stream."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe
from libs.core.process.isolation import isolated
from libs.core.queries.messages import Answerer, Query, QueryAnswer, QueryFault, failed
from libs.core.queries.wire import answer_to_wire, query_from_wire
from proto.runtime.v1 import coordination_pb2 as pb

log = get_logger(__name__)

_MOST = 256
_SEND_SECONDS = 10.0
_CLOSE_SECONDS = 1.0


class QueryAnswers:
    """Answers the queries of one stream, each in a task whose failure ends nothing else.

    Args:
        stub: of the stream's channel.
        metadata: what the worker proves with each call.
        answerer: None: every query is refused.
    """

    def __init__(self, stub: Any, metadata: Sequence[tuple[str, str]], answerer: Answerer | None) -> None:
        self._stub = stub
        self._metadata = metadata
        self._answerer = answerer
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, message: pb.Query) -> None:
        """Answer the query in *message*, in a task."""
        if len(self._tasks) >= _MOST:
            # The master's time limit ends it: an answer would take a task as well.
            log.warning("query dropped: too many at the same time", entity=message.entity_id)
            return
        task = asyncio.create_task(self._answer(message.query_id, query_from_wire(message)), name="query")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel the queries that are not answered yet. May be repeated.

        Their ends are not waited for longer than a second: the worker has to open its next stream.
        """
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)

    async def _answer(self, query_id: bytes, query: Query) -> None:
        answer = failed(QueryFault.INTERNAL, "internal error; see the log of the worker")
        with isolated("answer a query", passing=()):
            answer = await self._answer_in_time(query)
        with isolated("send the answer to a query", passing=()), observe("grpc", "call Answer"):
            try:
                await self._stub.Answer(
                    answer_to_wire(answer, query_id), metadata=self._metadata, timeout=_SEND_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                log.info("the answer to a query was not taken", entity=query.entity_id, reason=error.details())

    async def _answer_in_time(self, query: Query) -> QueryAnswer:
        if self._answerer is None:
            return failed(QueryFault.NO_ENTRYPOINT, "this service answers no queries")
        try:
            async with asyncio.timeout(query.timeout_seconds):
                return await self._answerer(query)
        except TimeoutError:
            return failed(QueryFault.TIMEOUT, f"no answer within {query.timeout_seconds:.3g} s")
