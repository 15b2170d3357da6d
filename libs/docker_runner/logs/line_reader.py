"""Read a bot's lines from storage and a worker's spool, then live, each once."""

import asyncio
import heapq
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import groupby
from typing import Protocol

from libs.core.errors import RuntimeFault
from libs.docker_runner.logs.bot_log import BotLog, LiveOutput
from libs.docker_runner.logs.history import TAIL_BYTES, LogHistory, LogPart
from libs.docker_runner.logs.lines import Cursor, Line, LineCutter, Tail, Wanted
from libs.docker_runner.logs.position import day_of
from libs.docker_runner.logs.spans import RUNTIME, STREAMS, Span
from libs.docker_runner.logs.spool import Place, Snapshot

Lines = list[Line]

_POLL_SECONDS = 2.0
_APPEARING_SECONDS = 0.2
_LOOK_AGAIN_SECONDS = 15.0
_REST_SECONDS = 2.0


class Here(Protocol):
    """The logs on this host."""

    def bot(self, entity_id: str) -> BotLog | None:
        """Return the log of this bot, if it is followed or uploaded here now."""

    async def turn(self, bot: BotLog) -> None:
        """Return when an earlier owner of the bot has uploaded its output, within a limit."""


class Nowhere:
    """A host without logs."""

    def bot(self, entity_id: str) -> BotLog | None:
        """None."""
        return None

    async def turn(self, bot: BotLog) -> None:
        """Return at once."""


class LineReader:
    """Reads lines of bots' logs."""

    def __init__(self, here: Here, history: LogHistory) -> None:
        self._here = here
        self._history = history

    async def lines(self, entity_id: str, wanted: Wanted, *, follow: bool = False) -> AsyncGenerator[Lines, None]:
        """Yield the lines in the order of writing, in groups; close the iterator to stop.

        Args:
            follow: continue with new output, forever. A line that reaches the storage late, such as the last ones of a
                dead worker, comes late and out of order, with its own time, if it is at most ten minutes old.

        Raises:
            RuntimeFault: the storage cannot be read, and the bot is not on this host.
        """
        reading = _Reading(wanted)
        while True:
            bot = self._here.bot(entity_id)
            live = bot.read_along() if bot is not None and follow else None
            try:
                if bot is not None and reading.wanted.after is not None:
                    await self._here.turn(bot)
                snapshot = await asyncio.to_thread(bot.spool.snapshot) if bot is not None else None
                async with aclosing(self._so_far(entity_id, reading, snapshot)) as so_far:
                    async for lines in so_far:
                        yield lines
                if not follow:
                    yield reading.rest()
                    return
                reading.resume()
                if bot is None or live is None or snapshot is None:
                    await self._until_here(entity_id)
                    continue
                async with aclosing(self._live(entity_id, bot, live, snapshot.end, reading)) as coming:
                    async for lines in coming:
                        yield lines
            finally:
                if bot is not None and live is not None:
                    bot.stop_reading(live)

    async def _so_far(
        self, entity_id: str, reading: "_Reading", snapshot: Snapshot | None
    ) -> AsyncGenerator[Lines, None]:
        """Yield the present lines: from the storage, then from this host. Lines uploaded meanwhile are in both."""
        tail: Tail | None = None
        if reading.wanted.tail is not None and reading.wanted.after is None:
            tail = Tail(reading.wanted.tail, TAIL_BYTES)
        try:
            async with aclosing(self._stored(entity_id, reading, here=snapshot is not None)) as stored:
                async for lines in stored:
                    if tail is None:
                        yield lines
                    else:
                        tail.extend(lines)
            if snapshot is not None:
                pieces = snapshot.pieces()
                while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                    lines = reading.take(*piece)
                    if tail is None:
                        yield lines
                    else:
                        tail.extend(lines)
        finally:
            if snapshot is not None:
                snapshot.close()
        if tail is not None:
            yield reading.ended_with(tail.lines)

    async def _stored(self, entity_id: str, reading: "_Reading", *, here: bool) -> AsyncGenerator[Lines, None]:
        wanted = reading.wanted
        first_day = day_of(wanted.from_us * 1000) if wanted.from_us else ""
        last_day = day_of(wanted.until_us * 1000) if wanted.until_us is not None else "99999999"
        try:
            parts = await self._history.parts(entity_id, first_day, last_day)
            begins = [(part, 0) for part in parts]
            if wanted.tail is not None and wanted.after is None and not wanted.from_us and not wanted.run:
                begins = await self._history.tail_begins(parts, wanted.tail)
            for _, of_day in groupby(begins, key=lambda one: one[0].day):
                async with aclosing(self._day(list(of_day), reading)) as lines:
                    async for some in lines:
                        yield some
        except RuntimeFault as fault:
            if not here:
                raise
            if wanted.after is None:
                note = f"[the0: earlier output cannot be shown now: {fault}]"
                yield [Line(note, stream=STREAMS[RUNTIME])]

    async def _day(self, begins: Sequence[tuple[LogPart, int]], reading: "_Reading") -> AsyncGenerator[Lines, None]:
        from_us = reading.wanted.from_us
        each = [
            self._history.pieces(
                part, begin=begin, from_us=from_us, unknown_from=reading.read_until(part), skip=reading.has_all
            )
            for part, begin in begins
        ]
        if len(each) == 1:
            async with aclosing(each[0]) as pieces:
                async for payload, spans in pieces:
                    yield reading.take(payload, spans)
            return
        # Output of other hosts is in objects beside the day's.
        async for line in _by_time([_cut(pieces) for pieces in each]):
            yield reading.accept([line])

    async def _until_here(self, entity_id: str) -> None:
        """Return when the bot's output is on this host, or it is time to read the storage again."""
        for _ in range(round(_POLL_SECONDS / _APPEARING_SECONDS)):
            await asyncio.sleep(_APPEARING_SECONDS)
            if self._here.bot(entity_id) is not None:
                return

    async def _live(
        self, entity_id: str, bot: BotLog, live: LiveOutput, behind: Place, reading: "_Reading"
    ) -> AsyncGenerator[Lines, None]:
        """Yield new output, until it has to be read from the spool again."""
        looked_at = time.monotonic()
        while self._here.bot(entity_id) is bot:
            left = looked_at + _LOOK_AGAIN_SECONDS - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, min(left, _REST_SECONDS))):
                    pieces, skipped = await live.take()
            except TimeoutError:
                yield reading.rest()
                if left <= 0:
                    # A former host of the bot may have uploaded the rest.
                    async with aclosing(self._stored(entity_id, reading, here=True)) as late:
                        async for lines in late:
                            yield lines
                    looked_at = time.monotonic()
                continue
            if skipped:
                return
            for piece in pieces:
                if piece.place > behind:
                    yield reading.take(piece.payload, piece.spans)


class _Reading:
    """One reader: its query and its progress."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self._cursor = wanted.after or Cursor()
        self._cutter = LineCutter()
        self._began_with_cursor = wanted.after is not None
        self._resumed = False
        self._sizes: dict[str, int] = {}

    def read_until(self, part: LogPart) -> int | None:
        """Return the byte from which *part* has unindexed unread output, and mark it as read.

        None for a reader that started at a cursor, which does not cover such output.
        """
        before = self._sizes.get(part.key, 0)
        self._sizes[part.key] = part.size
        if self._began_with_cursor:
            return None
        return before if self._resumed else None

    def take(self, payload: bytes, spans: Sequence[Span]) -> Lines:
        """Return the wanted lines that end in *payload*."""
        return self.accept(self._cutter.add(payload, spans))

    def rest(self) -> Lines:
        """Return the unfinished line."""
        return self.accept(self._cutter.rest())

    def accept(self, lines: Iterator[Line] | Sequence[Line]) -> Lines:
        """Return the wanted lines that were not shown."""
        accepted = []
        for line in lines:
            if self._cursor.is_new(line) or (not line.run and not self._began_with_cursor):
                self._cursor.show(line)
                if self.wanted.has(line):
                    accepted.append(line)
        return accepted

    def has_all(self, spans: Sequence[Span]) -> bool:
        """Whether all lines of *spans* were shown."""
        return self._cursor.has_all(spans)

    def ended_with(self, tail: Sequence[Line]) -> Lines:
        """Return the last lines *tail* of what was read; older lines count as shown."""
        known = [line.time_us for line in tail if line.time_us]
        self._cursor.before_us = max(self._cursor.before_us, (known[0] if known else self._cursor.newest_us + 1) - 1)
        return list(tail)

    def resume(self) -> None:
        """Continue with output after what was read."""
        self.wanted = replace(self.wanted, after=self._cursor)
        self._resumed = True


async def _cut(pieces: AsyncGenerator[tuple[bytes, Sequence[Span]], None]) -> AsyncGenerator[Line, None]:
    cutter = LineCutter()
    async with aclosing(pieces):
        async for payload, spans in pieces:
            for line in cutter.add(payload, spans):
                yield line
    for line in cutter.rest():
        yield line


async def _by_time(sources: Sequence[AsyncGenerator[Line, None]]) -> AsyncIterator[Line]:
    """Merge the lines of all *sources*, each in its order."""
    heads: list[tuple[int, int, Line]] = []
    try:
        for number, source in enumerate(sources):
            line = await anext(source, None)
            if line is not None:
                heads.append((line.time_us, number, line))
        heapq.heapify(heads)
        while heads:
            at, number, line = heads[0]
            yield line
            following = await anext(sources[number], None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (max(at, following.time_us), number, following))
    finally:
        for source in sources:
            await source.aclose()
