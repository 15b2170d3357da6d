"""What ``runtime bot logs`` shows: the output so far, out of objects and spool, and then what comes, as it comes."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from libs.core.errors import RuntimeFault
from libs.core.log import get_logger
from libs.docker_runner.bot_log import BotLog, LiveOutput
from libs.docker_runner.log_history import LogHistory, LogPart, last_lines
from libs.docker_runner.log_pipeline import LogPipeline
from libs.docker_runner.log_spool import Snapshot

log = get_logger(__name__)

_LOCK_SECONDS = 3.0
_ELSEWHERE_POLL_SECONDS = 2.0


class LogReader:
    """Reads bots' output, on the worker that has the bot or, half a minute late, on any other."""

    def __init__(self, pipeline: LogPipeline, history: LogHistory) -> None:
        self._pipeline = pipeline
        self._history = history

    async def output(
        self,
        entity_id: str,
        *,
        tail_lines: int | None = None,
        follow: bool = False,
        first_day: str = "",
        last_day: str = "99999999",
    ) -> AsyncGenerator[bytes, None]:
        """The bot's output in pieces of any size, each byte once; close the iterator to stop.

        Args:
            tail_lines: begin with only so many lines of what there is; None for all of it.
            follow: go on with what comes, within a second of its writing, for ever.
            first_day, last_day: UTC days such as ``20260131``, both included.

        When the storage is away, a line in its place says that the earlier output cannot be shown. A piece that was
        just being uploaded when it went away may then come twice.
        """
        bot = self._pipeline.bot(entity_id)
        if bot is None:
            parts = await self._history.parts(entity_id, first_day, last_day)
            async for piece in self._stored(parts, tail_lines):
                yield piece
            if follow:
                async for piece in self._history.follow(entity_id, parts, _ELSEWHERE_POLL_SECONDS):
                    yield piece
            return
        live = bot.read_along()
        try:
            async for piece in self._here(bot, live, entity_id, tail_lines, follow, first_day, last_day):
                yield piece
        finally:
            bot.stop_reading(live)

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
            waiting = last_lines(waiting, tail_lines)
            more = tail_lines - waiting.count(b"\n")
            if more > 0:
                yield await self._history.tail(parts, more)
        yield waiting
        while follow:
            for place, payload in await live.take():
                if place > snapshot.end:
                    yield payload

    async def _freeze(
        self, bot: BotLog, entity_id: str, first_day: str, last_day: str
    ) -> tuple[Snapshot, list[LogPart], bytes]:
        """Spool and objects at one moment between two uploads, so that together they are everything once."""
        try:
            async with asyncio.timeout(_LOCK_SECONDS):
                await bot.uploader.lock.acquire()
        except TimeoutError:
            return await asyncio.to_thread(bot.spool.snapshot), [], _notice("an upload is under way for long")
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


def _notice(reason: str) -> bytes:
    return f"[the0: earlier output cannot be shown now: {reason}]\n".encode(errors="replace")
