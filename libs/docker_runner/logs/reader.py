"""The source of ``runtime bot logs``: stored output from objects and spool, then live output."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from libs.core.api.log_output import LogQuery
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.docker_runner.logs.bot_log import BotLog, LiveOutput
from libs.docker_runner.logs.history import TAIL_BYTES, LogHistory, LogPart, last_lines, sizes_of
from libs.docker_runner.logs.line_reader import LineReader
from libs.docker_runner.logs.lines import Cursor, Line, Wanted, as_json, as_text, microseconds
from libs.docker_runner.logs.spool import Snapshot
from libs.docker_runner.logs.uploads import LogUploads

log = get_logger(__name__)

_LOCK_SECONDS = 3.0
_ELSEWHERE_POLL_SECONDS = 2.0
_APPEARING_POLL_SECONDS = 0.2
_LAST_DAY = "99999999"


class LogReader:
    """Reads bots' output, on the worker that owns the bot or, half a minute late, on any other."""

    def __init__(self, logs: LogUploads, history: LogHistory) -> None:
        self._logs = logs
        self._history = history

    async def output(
        self,
        entity_id: str,
        *,
        tail_lines: int | None = None,
        follow: bool = False,
        first_day: str = "",
        last_day: str = _LAST_DAY,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bot's output in pieces of any size, each byte once; close the iterator to stop.

        Args:
            tail_lines: start with the last lines, that many; None for all output.
            follow: continue with new output, within a second of its writing, forever.
            first_day, last_day: UTC days such as ``20260131``, inclusive.

        When the storage is down, a note replaces the earlier output. A piece that was
        being uploaded at that moment may then be repeated.
        """
        bot = self._logs.bot(entity_id)
        seen: dict[str, int] | None = None
        if bot is None:
            parts = await self._history.parts(entity_id, first_day, last_day)
            async for piece in self._stored(parts, tail_lines):
                yield piece
            if not follow:
                return
            seen = sizes_of(parts)
            async for piece in self._until_here(entity_id, seen):
                yield piece
            bot = self._logs.bot(entity_id)
        if bot is not None:
            live = bot.read_along()
            try:
                if seen is not None:
                    pieces = self._caught_up(bot, live, entity_id, seen)
                else:
                    pieces = self._here(bot, live, entity_id, tail_lines, follow, first_day, last_day)
                async with aclosing(pieces):
                    async for piece in pieces:
                        yield piece
            finally:
                bot.stop_reading(live)

    def lines(self, entity_id: str, wanted: Wanted, *, follow: bool = False) -> AsyncGenerator[list[Line], None]:
        """Yield the bot's lines with their times; see :meth:`LineReader.lines`."""
        return LineReader(self._logs, self._history).lines(entity_id, wanted, follow=follow)

    async def records(self, entity_id: str, query: LogQuery) -> AsyncGenerator[bytes, None]:
        """Yield the lines selected by *query*, in its format. Raises RuntimeFault."""
        async with aclosing(self.lines(entity_id, wanted_by(query), follow=query.follow)) as batches:
            async for lines in batches:
                if lines:
                    yield encoded(lines, query)

    def is_live(self, entity_id: str) -> bool:
        """Whether the bot's output arrives here as it is printed: this worker owns it, and it has started."""
        return self._logs.owns(entity_id)

    async def _until_here(self, entity_id: str, seen: dict[str, int]) -> AsyncGenerator[bytes, None]:
        """Yield new output in the storage after *seen*, until the bot's output is available on this host."""
        looked_at = time.monotonic()
        while self._logs.bot(entity_id) is None:
            await asyncio.sleep(_APPEARING_POLL_SECONDS)
            if time.monotonic() - looked_at >= _ELSEWHERE_POLL_SECONDS:
                async for piece in self._history.added(await self._history.parts(entity_id), seen):
                    yield piece
                looked_at = time.monotonic()

    async def _caught_up(
        self, bot: BotLog, live: LiveOutput, entity_id: str, seen: dict[str, int]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the stored output after *seen*, and then new output."""
        snapshot, parts, notice = await self._freeze(bot, entity_id, "", _LAST_DAY)
        try:
            async for piece in self._history.added(parts, seen):
                yield piece
            waiting = notice + b"".join(await asyncio.to_thread(list, snapshot))
        finally:
            snapshot.close()
        yield waiting
        async for piece in _behind(snapshot, live):
            yield piece

    async def _here(
        self,
        bot: BotLog,
        live: LiveOutput,
        entity_id: str,
        tail_lines: int | None,
        follow: bool,
        first_day: str,
        last_day: str,
    ) -> AsyncGenerator[bytes, None]:
        snapshot, parts, notice = await self._freeze(bot, entity_id, first_day, last_day)
        try:
            if tail_lines is None:
                async for piece in self._stored(parts, None):
                    yield piece
            waiting = notice + b"".join(await asyncio.to_thread(list, snapshot))
        finally:
            snapshot.close()
        if tail_lines is not None:
            waiting = last_lines(waiting, tail_lines)[-TAIL_BYTES:]
            more = tail_lines - waiting.count(b"\n")
            if more > 0:
                yield await self._history.tail(parts, more)
        yield waiting
        if follow:
            async for piece in _behind(snapshot, live):
                yield piece

    async def _freeze(
        self, bot: BotLog, entity_id: str, first_day: str, last_day: str
    ) -> tuple[Snapshot, list[LogPart], bytes]:
        """Return spool and objects between two uploads, so that together they contain everything once."""
        try:
            async with asyncio.timeout(_LOCK_SECONDS):
                await bot.uploader.lock.acquire()
        except TimeoutError:
            return await asyncio.to_thread(bot.spool.snapshot), [], _notice("an upload is taking too long")
        try:
            snapshot = await asyncio.to_thread(bot.spool.snapshot)
            try:
                return snapshot, await self._history.parts(entity_id, first_day, last_day), b""
            except RuntimeFault as error:
                return snapshot, [], _notice(str(error))
        finally:
            bot.uploader.lock.release()

    async def _stored(self, parts: Sequence[LogPart], tail_lines: int | None) -> AsyncGenerator[bytes, None]:
        if tail_lines is not None:
            yield await self._history.tail(parts, tail_lines)
            return
        async for piece in self._history.read(parts):
            yield piece


def wanted_by(query: LogQuery) -> Wanted:
    """Yield the lines selected by *query*."""
    return Wanted(
        tail=query.tail,
        since_us=microseconds(query.since) if query.since is not None else None,
        until_us=microseconds(query.until) if query.until is not None else None,
        run=query.run,
        after=Cursor.parse(query.after) if query.after else None,
    )


def encoded(lines: Iterable[Line], query: LogQuery) -> bytes:
    """Yield the lines in the format of *query*."""
    return as_json(lines) if query.json else as_text(lines, timestamps=query.timestamps)


async def _behind(snapshot: Snapshot, live: LiveOutput) -> AsyncGenerator[bytes, None]:
    """Yield new output after the snapshot, forever."""
    while True:
        pieces, skipped = await live.take()
        if skipped:
            yield b"[the0: %d bytes were skipped here: the reader was too slow]\n" % skipped
        for piece in pieces:
            if piece.place > snapshot.end:
                yield piece.payload


def _notice(reason: str) -> bytes:
    return f"[the0: earlier output cannot be shown now: {reason}]\n".encode(errors="replace")
