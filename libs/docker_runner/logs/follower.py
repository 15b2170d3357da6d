"""Copy the engine's log of one container into its bot's spool, without gaps or repeats.

Reading resumes at the spool's position after any interruption: a restarting engine, a stream that ends, a
killed worker. Output is written as it arrives, in batches that grow while the disk is busy; when the disk
fails, reading waits, and the engine's own log is the buffer.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Protocol, TypeVar

from libs.core.aio.backoff import Backoff
from libs.core.bot_metrics import MARK
from libs.core.errors import Retryable
from libs.core.observability.log import get_logger
from libs.docker_runner.logs.output import STREAM_END_SECONDS, LogLine
from libs.docker_runner.logs.position import BEGINNING, Position, Resumption, day_of, nanoseconds
from libs.docker_runner.logs.spans import STREAMS, Span, few
from libs.docker_runner.logs.spool import LogSpool, Place

log = get_logger(__name__)

ROTATED_LINE = b"[the0: output is missing here: the engine dropped it before it could be read]\n"
_BUFFER_BYTES = 1024 * 1024
_PIECES_PER_TURN = 200

T = TypeVar("T")


class ReadOutput(Protocol):
    """Reads a container's output since an instant, in the engine's order; with follow it ends with the container."""

    def __call__(self, *, since: datetime | None, follow: bool) -> AsyncIterator[LogLine]: ...


@dataclass(frozen=True)
class _Piece:
    day: str
    data: bytes
    position: Position
    span: Span


class LogFollower:
    """Follows the container *container_id*.

    Args:
        run_id: the run of the container.
        on_written: called for each stored batch, with the position after it in the spool and its spans.
        on_metric: called for each line of standard output that may be a metric, with its time in Unix seconds; after an
            interruption, perhaps again.
    """

    def __init__(
        self,
        spool: LogSpool,
        container_id: str,
        read: ReadOutput,
        executor: Executor,
        on_written: Callable[[Place, bytes, Sequence[Span]], None],
        run_id: str = "",
        on_metric: Callable[[float, bytes], None] | None = None,
    ) -> None:
        self._spool = spool
        self._container_id = container_id
        self._read = read
        self._executor = executor
        self._on_written = on_written
        self._run_id = run_id
        self._on_metric = on_metric
        self._ended = asyncio.Event()

    def container_ended(self) -> None:
        """Note that the container has ended: :meth:`run` returns when all its output is in the spool."""
        self._ended.set()

    async def run(self) -> None:
        """Follow until :meth:`container_ended` and the end of the output.

        Raises:
            RuntimeFault: the engine cannot provide this output, now or ever.
        """
        backoff = Backoff(initial_seconds=0.1, cap_seconds=5.0)
        while True:
            ended = self._ended.is_set()
            try:
                if await self._follow_once(follow=not ended):
                    backoff.reset()
                if ended:
                    return
            except Retryable as error:
                log.warning("output cannot be read now", container=self._container_id, reason=str(error))
            if not self._ended.is_set():
                await self._wait_for_end(backoff.next_seconds())
            elif ended:
                await asyncio.sleep(backoff.next_seconds())

    async def _follow_once(self, follow: bool) -> bool:
        """Copy the available output; return whether any was new. Ends soon after the container has ended."""
        position = await self._run(self._spool.position, self._container_id) or BEGINNING
        buffer = _Buffer(_BUFFER_BYTES)
        # In tasks, so that neither a silent stream nor a slow disk blocks the other.
        reading = asyncio.create_task(self._fill(buffer, position, follow), name=f"read log {self._container_id[:12]}")
        writing = asyncio.create_task(self._drain(buffer), name=f"spool log {self._container_id[:12]}")
        ending = asyncio.create_task(self._ended.wait(), name=f"await end {self._container_id[:12]}")
        try:
            await asyncio.wait([reading, writing, *([ending] if follow else [])], return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                # The engine ends the stream after the last piece, and may not answer requests for a while.
                await asyncio.wait([reading, writing], timeout=STREAM_END_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                await asyncio.wait([reading])
            buffer.close()
            written = await writing
            if not reading.cancelled():
                reading.result()
            return written
        finally:
            for task in (reading, writing, ending):
                task.cancel()
            await asyncio.gather(reading, writing, ending, return_exceptions=True)

    async def _fill(self, buffer: "_Buffer", position: Position, follow: bool) -> None:
        resumption = Resumption(position)
        had_gap = False
        taken = 0
        lines = self._read(since=position.since, follow=follow)
        try:
            async for line in lines:
                stamp = nanoseconds(line.timestamp)
                before = resumption.position.taken_bytes
                if not resumption.is_new(stamp, len(line.data)):
                    continue
                data = line.data
                if self._on_metric is not None and MARK in data and line.stream == "stdout":
                    self._on_metric(stamp / 1e9, data)
                if resumption.gap and not had_gap:
                    had_gap = True
                    log.error("output lost: the engine dropped it before it was read", container=self._container_id)
                    data = ROTATED_LINE + data
                    resumption.insert(len(ROTATED_LINE))
                # To the millisecond, as in the storage, so that a line has the same time in all sources.
                time_us = stamp // 1_000_000 * 1000
                span = Span(self._run_id, before, len(data), time_us, STREAMS.index(line.stream))
                await buffer.put(_Piece(day_of(stamp), data, resumption.position, span))
                taken += 1
                if taken % _PIECES_PER_TURN == 0:
                    # A stream that always has data never yields to other tasks by itself.
                    await asyncio.sleep(0)
        finally:
            if isinstance(lines, AsyncGenerator):
                await lines.aclose()

    async def _drain(self, buffer: "_Buffer") -> bool:
        backoff = Backoff(initial_seconds=0.1, cap_seconds=5.0)
        written = False
        while pieces := await buffer.take():
            for day, of_day in groupby(pieces, key=lambda piece: piece.day):
                batch = list(of_day)
                payload = b"".join(piece.data for piece in batch)
                spans = few(piece.span for piece in batch)
                place = None
                while place is None:
                    try:
                        place = await self._append(day, payload, batch[-1].position, spans)
                    except OSError as error:
                        log.warning("output cannot be spooled", container=self._container_id, reason=str(error))
                        await asyncio.sleep(backoff.next_seconds())
                backoff.reset()
                written = True
                self._on_written(place, payload, spans)
        return written

    async def _append(self, day: str, payload: bytes, position: Position, spans: Sequence[Span]) -> Place:
        appending = asyncio.get_running_loop().run_in_executor(
            self._executor, self._spool.append, self._container_id, day, payload, position, spans
        )
        try:
            return await asyncio.shield(appending)
        except asyncio.CancelledError:
            # The thread continues; the next follower must find the position that it writes.
            await asyncio.wait([appending])
            raise

    async def _wait_for_end(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: call(*arguments))


class _Buffer:
    """Pieces between one reader and one writer; the reader waits while there are more than *max_bytes*."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[_Piece] = []
        self._bytes = 0
        self._closed = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, piece: _Piece) -> None:
        self._pieces.append(piece)
        self._bytes += len(piece.data)
        self._changed.set()
        if self._bytes > self._max_bytes:
            self._room.clear()
            await self._room.wait()

    async def take(self) -> list[_Piece]:
        """Return all pieces, at least one; none when it is closed and empty."""
        while not self._pieces and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        pieces, self._pieces, self._bytes = self._pieces, [], 0
        self._room.set()
        return pieces

    def close(self) -> None:
        """Mark the end of the output."""
        self._closed = True
        self._changed.set()
