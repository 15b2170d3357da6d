"""The output of one backtest: live from its container, or from the results bucket after its end."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing

from libs.core.api.log_output import LogQuery
from libs.core.observability.log import get_logger
from libs.core.storage.errors import ObjectMissing
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.containers.container import ContainerState, ManagedContainer
from libs.docker_runner.errors import DockerRunnerError
from libs.docker_runner.logs.history import TAIL_BYTES, last_lines
from libs.docker_runner.logs.lines import Line, LineCutter
from libs.docker_runner.logs.position import nanoseconds
from libs.docker_runner.logs.reader import encoded, wanted_by
from libs.docker_runner.logs.spans import STREAMS, Span
from libs.docker_runner.runs.run_engine import RunEngine
from services.backtest_runner.objects import logs_key

log = get_logger(__name__)

_POLL_SECONDS = 0.2
_READ_BYTES = 1024 * 1024


class BacktestOutput:
    """A `LogSource` for backtests.

    Args:
        containers: this host's containers.
        is_under_way: whether the backtest is not completed yet.
    """

    def __init__(
        self,
        runner: RunEngine,
        containers: Callable[[], Awaitable[list[ManagedContainer]]],
        is_under_way: Callable[[str], Awaitable[bool]],
        store: ObjectStore,
        bucket: str,
    ) -> None:
        self._runner = runner
        self._containers = containers
        self._is_under_way = is_under_way
        self._store = store
        self._bucket = bucket

    def is_live(self, entity_id: str) -> bool:
        """False: only its document shows its owner."""
        return False

    async def output(
        self, entity_id: str, *, tail_lines: int | None = None, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """Yield the last lines of its latest attempt; with *follow* new output, also of later attempts, to its end."""
        async with aclosing(self._pieces(entity_id, tail_lines, follow=follow)) as pieces:
            async for payload, _ in pieces:
                yield payload

    async def records(self, entity_id: str, query: LogQuery) -> AsyncGenerator[bytes, None]:
        """Yield the lines selected by *query*, in its format. After its completion their times are unknown."""
        cutter, wanted = LineCutter(), wanted_by(query)
        # A query of the last lines needs only those; one after a position needs all.
        tail = query.tail if query.is_plain or not (wanted.since_us or wanted.until_us or wanted.after) else None

        def accepted(lines: Iterable[Line]) -> bytes:
            new = [line for line in lines if wanted.has(line) and (wanted.after is None or wanted.after.is_new(line))]
            return encoded(new, query)

        async with aclosing(self._pieces(entity_id, tail, follow=query.follow)) as pieces:
            async for payload, span in pieces:
                if records := accepted(cutter.add(payload, [span])):
                    yield records
        yield accepted(cutter.rest())

    async def _pieces(
        self, entity_id: str, tail_lines: int | None, *, follow: bool
    ) -> AsyncGenerator[tuple[bytes, Span], None]:
        seen: set[str] = set()
        while True:
            under_way = await self._is_under_way(entity_id)
            container = await self._container(entity_id, seen)
            if container is not None:
                tail = tail_lines if not seen else None
                # The size before the last lines is unknown.
                run, offset = container.run_id if tail is None else "", 0
                seen.add(container.container_id)
                try:
                    async for line in self._runner.logs(container, follow=follow, tail=tail):
                        time_us = nanoseconds(line.timestamp) // 1_000_000 * 1000
                        yield line.data, Span(run, offset, len(line.data), time_us, STREAMS.index(line.stream))
                        offset += len(line.data)
                except DockerRunnerError as error:
                    # Its container was removed meanwhile: its output is in the storage soon.
                    log.info("a backtest's output is incomplete", entity=entity_id, reason=str(error))
            elif not under_way:
                if not seen:
                    async with aclosing(self._stored(entity_id, tail_lines)) as pieces:
                        async for piece in pieces:
                            yield piece, Span("", 0, len(piece), 0, 0)
                return
            if not follow:
                return
            if container is None:
                await asyncio.sleep(_POLL_SECONDS)

    async def _container(self, entity_id: str, seen: set[str]) -> ManagedContainer | None:
        found = [c for c in await self._containers() if c.id == entity_id and c.container_id not in seen]
        found = [c for c in found if c.state is not ContainerState.CREATED]
        return next((c for c in found if c.state is ContainerState.RUNNING), found[0] if found else None)

    async def _stored(self, entity_id: str, tail_lines: int | None) -> AsyncGenerator[bytes, None]:
        """Yield the stored output piece by piece, as it may exceed this process's memory."""
        key = logs_key(entity_id)
        try:
            size = (await self._store.stat(self._bucket, key)).size
            if tail_lines is not None:
                content = await self._store.get(self._bucket, key, offset=max(0, size - TAIL_BYTES))
                yield last_lines(content, tail_lines)
                return
            offset = 0
            while offset < size and (
                content := await self._store.get(self._bucket, key, offset=offset, length=_READ_BYTES)
            ):
                offset += len(content)
                yield content
        except ObjectMissing:
            return
