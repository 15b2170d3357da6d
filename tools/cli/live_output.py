"""The output of a bot or a schedule, wherever it runs: from the worker that has it, else out of the storage."""

import asyncio
import codecs
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence

import aiohttp

from libs.core.api.log_output import FROM_WORKER, MOST_LINES, SOURCE
from libs.core.api.remote_output import ask, new_session, next_piece
from libs.core.service import ServiceDefinition
from libs.core.store.entity_views import EntityViews
from libs.core.store.processes import ProcessStore
from libs.docker_runner.log_history import LogHistory, LogPart, sizes_of
from tools.cli.connections import Connections
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure

_AGAIN_SECONDS = 0.3
_STORAGE_POLL_SECONDS = 2.0
_WORKER_POLL_SECONDS = 10.0
_QUIET_SECONDS = 0.3
_BEGIN_SECONDS = 0.8
_REMEMBERED_LINES = 500
_OVERLAP_LINES = 200

Tell = Callable[[str], None]


class EntityOutput:
    """Reads one entity's output, line by line.

    Args:
        tell: is told in one line when the output does not come from the worker.
    """

    def __init__(self, servers: Connections, service: ServiceDefinition, entity_id: str, tell: Tell) -> None:
        self._servers = servers
        self._service = service
        self._id = entity_id
        self._tell = tell
        self._told = False
        self._shown: deque[str] = deque(maxlen=_REMEMBERED_LINES)

    async def lines(self, last: int, *, follow: bool) -> AsyncGenerator[str, None]:
        """The *last* lines, and with *follow* what comes, for ever; close the iterator to stop.

        A line comes within a second of its writing while its worker can be reached. When the entity goes to another
        worker, what that one prints goes on behind what was shown.

        Raises:
            Failure: there is no such entity, and no output of one.
        """
        database = await self._servers.database(self._service)
        entities, processes = EntityViews(database, self._service.collection), ProcessStore(database)
        async with new_session() as session:
            first = True
            while True:
                entity = await entities.get(self._id)
                tail = min(last, MOST_LINES) if first else _OVERLAP_LINES
                answer = None
                if entity is not None and entity.segment is not None:
                    owner = await processes.owner(entity.segment)
                    workers = [owner] if owner is not None else []
                    answer = await ask(session, workers, self._id, tail=tail, follow=follow)
                if answer is not None and answer.headers.get(SOURCE) == FROM_WORKER:
                    pieces = self._from_worker(answer, first)
                else:
                    if answer is not None:
                        answer.close()
                    pieces = self._from_storage(last, first, follow and entity is not None, entity is not None)
                async with contextlib.aclosing(pieces):
                    async for line in pieces:
                        self._shown.append(line)
                        yield line
                if not follow or entity is None:
                    return
                first = False
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _from_worker(self, answer: aiohttp.ClientResponse, first: bool) -> AsyncGenerator[str, None]:
        self._told = False
        lines = Lines()
        try:
            if not first:
                for line in unseen(self._shown, await self._begin(answer, lines)):
                    yield line
            while piece := await next_piece(answer):
                for line in lines.add(piece):
                    yield line
        finally:
            answer.close()
        for line in lines.rest():
            yield line

    async def _begin(self, answer: aiohttp.ClientResponse, lines: "Lines") -> list[str]:
        """What the worker has of before: all that comes until it is quiet for a moment, or prints on and on."""
        found: list[str] = []
        deadline = time.monotonic() + _BEGIN_SECONDS
        while len(found) < _OVERLAP_LINES and time.monotonic() < deadline:
            try:
                async with asyncio.timeout(_QUIET_SECONDS):
                    piece = await next_piece(answer)
            except TimeoutError:
                break
            if not piece:
                break
            found += lines.add(piece)
        return found

    async def _from_storage(self, last: int, first: bool, follow: bool, is_known: bool) -> AsyncGenerator[str, None]:
        """What the storage has; with *follow* what it gets, until it is time to look for the worker again."""
        history = LogHistory(self._servers.storage(), self._servers.storage_settings().logs_bucket)
        parts = await history.parts(self._id)
        if not parts and not is_known:
            noun = self._service.noun
            raise Failure(f"there is no {noun} {self._id!r}, and no log of one", ExitCode.NOT_FOUND)
        if follow and not self._told:
            self._told = True
            self._tell("no worker that runs it can be reached; this is out of the storage, up to half a minute late")
        lines = Lines()
        content = lines.add(await history.tail(parts, last if first else _OVERLAP_LINES))
        for line in content if first else unseen(self._shown, content):
            yield line
        if follow:
            async for line in self._added(history, parts, lines):
                yield line
        for line in lines.rest():
            yield line

    async def _added(self, history: LogHistory, parts: Sequence[LogPart], lines: "Lines") -> AsyncGenerator[str, None]:
        seen = sizes_of(parts)
        for _ in range(round(_WORKER_POLL_SECONDS / _STORAGE_POLL_SECONDS)):
            await asyncio.sleep(_STORAGE_POLL_SECONDS)
            async for piece in history.added(await history.parts(self._id), seen):
                for line in lines.add(piece):
                    yield line


class Lines:
    """Makes lines of pieces that may end anywhere, within a character too."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def add(self, piece: bytes) -> list[str]:
        """The lines that end in *piece*."""
        *whole, self._rest = (self._rest + self._decoder.decode(piece)).split("\n")
        return [line.removesuffix("\r") for line in whole]

    def rest(self) -> list[str]:
        """What has no end, at the end."""
        rest, self._rest = self._rest + self._decoder.decode(b"", final=True), ""
        return [rest] if rest else []


def unseen(shown: Sequence[str], fresh: Sequence[str]) -> Sequence[str]:
    """What of *fresh*, the last lines as somebody else has them, comes behind what was *shown* already."""
    length, end = _overlap(shown, fresh)
    if length:
        return fresh[end:]
    # The last of what was shown is not there yet: a host that ran it before has not handed it in. Is all of it older?
    length, _ = _overlap(fresh, shown)
    return [] if length and length >= min(len(fresh), 3) else fresh


def _overlap(before: Sequence[str], after: Sequence[str]) -> tuple[int, int]:
    """The longest end of *before* that stands somewhere in *after*, and where it ends there; of equals the last one."""
    best, where = 0, 0
    for end in range(1, len(after) + 1):
        length = 0
        while length < min(end, len(before)) and after[end - 1 - length] == before[-1 - length]:
            length += 1
        if length and length >= best:
            best, where = length, end
    return best, where
