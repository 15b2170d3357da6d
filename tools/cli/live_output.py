"""The output of a bot or a schedule on any worker: from its worker, else from the storage."""

import asyncio
import codecs
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import aiohttp

from libs.core.api.log_output import FROM_WORKER, MOST_LINES, SOURCE, TIME
from libs.core.api.remote_output import ask, new_session, next_piece
from libs.core.process.service import ServiceDefinition
from libs.core.store.audit import AuditStore
from libs.core.store.entity_views import EntityViews
from libs.core.store.processes import KnownProcess, ProcessStore
from libs.docker_runner.logs.history import LogHistory
from libs.docker_runner.logs.line_reader import LineReader, Nowhere
from libs.docker_runner.logs.lines import Cursor, Line, Wanted, from_json
from tools.cli.connections import Connections
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.local_user import user_of_this_machine

_AGAIN_SECONDS = 0.3
_MOVE_SECONDS = 10.0
_WORKER_POLL_SECONDS = 10.0
_QUIET_SECONDS = 30.0

Note = Callable[[str], None]


class EntityOutput:
    """Reads one entity's output, line by line.

    Args:
        note: called with a note when the output does not come from the worker.
    """

    def __init__(self, servers: Connections, service: ServiceDefinition, entity_id: str, note: Note) -> None:
        self._servers = servers
        self._service = service
        self._id = entity_id
        self._note = note
        self._noted = False
        self._recorded = False
        self._cursor = Cursor()
        self._began = False
        self._moving_until = 0.0
        self._storage: AsyncGenerator[list[Line], None] | None = None
        self._next: asyncio.Future[list[Line] | None] | None = None

    async def lines(self, last: int, *, follow: bool) -> AsyncGenerator[str, None]:
        """Yield the texts of :meth:`entries`, starting with the *last* ones."""
        async with contextlib.aclosing(self.entries(Wanted(tail=last), follow=follow)) as entries:
            async for line in entries:
                yield line.text

    async def entries(self, wanted: Wanted, *, follow: bool) -> AsyncGenerator[Line, None]:
        """Yield the existing lines, and with *follow* new ones, forever; close the iterator to stop.

        A line comes within a second of its writing while its worker can be reached. When another worker becomes the
        owner, or none can be reached, reading continues exactly after the last line that was shown.

        Raises:
            Failure: there is no such entity and no output of one.
        """
        database = await self._servers.database(self._service)
        entities, processes = EntityViews(database, self._service.collection), ProcessStore(database)
        async with new_session() as session, contextlib.AsyncExitStack() as at_end:
            at_end.push_async_callback(self._close_storage)
            while True:
                entity = await entities.get(self._id)
                answer, owner = None, None
                if entity is not None and entity.segment is not None:
                    owner = await processes.owner(entity.segment)
                    tail = min(wanted.tail or 0, MOST_LINES)
                    workers = [owner] if owner is not None else []
                    answer = await ask(
                        session,
                        workers,
                        self._id,
                        tail=tail,
                        follow=follow,
                        who=user_of_this_machine(),
                        more=self._parameters(wanted),
                    )
                if answer is not None and answer.headers.get(SOURCE) == FROM_WORKER:
                    lines = self._from_worker(answer, partial(self._is_owner, owner, entities, processes))
                else:
                    if answer is not None:
                        answer.close()
                    if entity is not None and time.monotonic() < self._moving_until:
                        await asyncio.sleep(_AGAIN_SECONDS)
                        continue
                    if not self._recorded:
                        # The worker records what is read from it.
                        self._recorded = True
                        audit = AuditStore(await self._servers.database(self._service))
                        await audit.output_read(user_of_this_machine(), self._id)
                    lines = self._from_storage(wanted, follow=follow and entity is not None, known=entity is not None)
                async with contextlib.aclosing(lines):
                    async for line in lines:
                        self._show(line)
                        yield line
                if not follow or entity is None:
                    return
                await asyncio.sleep(_AGAIN_SECONDS)

    def _parameters(self, wanted: Wanted) -> dict[str, str]:
        given = {
            "format": "json",
            "all": "true" if wanted.tail is None else "",
            "since": _rfc3339(wanted.since_us),
            "until": _rfc3339(wanted.until_us),
            "run": wanted.run,
            "after": str(self._cursor) if self._began else "",
        }
        return {name: value for name, value in given.items() if value}

    async def _is_owner(self, worker: KnownProcess | None, entities: EntityViews, processes: ProcessStore) -> bool:
        entity = await entities.get(self._id)
        return entity is not None and entity.segment is not None and await processes.owner(entity.segment) == worker

    async def _from_worker(
        self, answer: aiohttp.ClientResponse, is_owner: Callable[[], Awaitable[bool]]
    ) -> AsyncGenerator[Line, None]:
        self._noted = False
        await self._close_storage()
        self._begin(int(answer.headers.get(TIME, "0")))
        records = Lines()
        try:
            while True:
                try:
                    async with asyncio.timeout(_QUIET_SECONDS):
                        piece = await next_piece(answer)
                except TimeoutError:
                    # A lost machine stays silent forever, but so does a bot that prints nothing.
                    if await is_owner():
                        continue
                    return
                if not piece:
                    return
                for record in records.add(piece):
                    yield from_json(record)
        finally:
            answer.close()
            # Another worker owns it soon, and has newer output than the storage.
            self._moving_until = time.monotonic() + _MOVE_SECONDS

    async def _from_storage(self, wanted: Wanted, *, follow: bool, known: bool) -> AsyncGenerator[Line, None]:
        """Yield the lines in the storage; with *follow* also new ones, until the worker should be tried again."""
        history = LogHistory(self._servers.storage(), self._servers.storage_settings().logs_bucket)
        if not known and not await history.parts(self._id):
            noun = self._service.noun
            raise Failure(f"there is no {noun} {self._id!r}, and no log of one", ExitCode.NOT_FOUND)
        if follow and not self._noted:
            self._noted = True
            self._note("no worker that runs it is reachable; showing output from the storage, up to 30 seconds late")
        if self._storage is None:
            if self._began:
                wanted = replace(wanted, after=Cursor.parse(str(self._cursor)))
            self._begin(time.time_ns() // 1000)
            self._storage = LineReader(Nowhere(), history).lines(self._id, wanted, follow=follow)
        until = time.monotonic() + _WORKER_POLL_SECONDS
        while not follow or time.monotonic() < until:
            self._next = self._next or asyncio.ensure_future(anext(self._storage, None))
            done, _ = await asyncio.wait([self._next], timeout=_WORKER_POLL_SECONDS if follow else None)
            if not done:
                return
            lines, self._next = self._next.result(), None
            if lines is None:
                self._storage = None
                return
            for line in lines:
                yield line

    async def _close_storage(self) -> None:
        pending, self._next = self._next, None
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        storage, self._storage = self._storage, None
        if storage is not None:
            await storage.aclose()

    def _begin(self, time_us: int) -> None:
        """Note that the first answer contains all wanted lines up to this time: older ones are not wanted later."""
        if not self._began:
            self._began = True
            self._cursor = Cursor(before_us=time_us, newest_us=time_us)

    def _show(self, line: Line) -> None:
        if not self._cursor.runs and line.run:
            self._cursor.before_us = min(self._cursor.before_us, line.time_us - 1)
            self._cursor.newest_us = line.time_us
        self._cursor.show(line)


def _rfc3339(time_us: int | None) -> str:
    return datetime.fromtimestamp(time_us / 1_000_000, UTC).isoformat() if time_us is not None else ""


class Lines:
    """Splits pieces, which may end anywhere, even within a character, into lines."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def add(self, piece: bytes) -> list[str]:
        """Return the lines that end in *piece*."""
        *whole, self._rest = (self._rest + self._decoder.decode(piece)).split("\n")
        return [line.removesuffix("\r") for line in whole]

    def rest(self) -> list[str]:
        """Return the unfinished line at the end."""
        rest, self._rest = self._rest + self._decoder.decode(b"", final=True), ""
        return [rest] if rest else []


def unseen(shown: Sequence[str], fresh: Sequence[str]) -> Sequence[str]:
    """Return the part of *fresh*, the last lines from another source, that follows what was *shown*."""
    length, end = _overlap(shown, fresh)
    if length:
        return fresh[end:]
    # The last shown line is missing: a former host has not uploaded it. Is all of *fresh* older?
    length, _ = _overlap(fresh, shown)
    return [] if length and length >= min(len(fresh), 3) else fresh


def _overlap(before: Sequence[str], after: Sequence[str]) -> tuple[int, int]:
    """Return the longest end of *before* that occurs in *after*, and where it ends there; of equals the last one."""
    best, where = 0, 0
    for end in range(1, len(after) + 1):
        length = 0
        while length < min(end, len(before)) and after[end - 1 - length] == before[-1 - length]:
            length += 1
        if length and length >= best:
            best, where = length, end
    return best, where
