"""The output of one entity over HTTP: its last lines and, with ``follow``, new output as it is printed."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from json import dumps
from typing import Any, Protocol

from aiohttp import web

from libs.core.api.errors import Refused
from libs.core.api.parameters import choice, flag, instant, matching, text, whole
from libs.core.errors import RuntimeFault

SOURCE = "Log-Source"
"""The header that states whether output comes from the entity's worker or from the storage."""
FROM_WORKER, FROM_STORAGE = "worker", "storage"
_NO_BUFFERING = {"X-Accel-Buffering": "no"}

TIME = "Log-Time"
"""The header with the time of the answering process, in microseconds since 1970."""

MOST_LINES = 10_000
PARAMETERS = (
    whole("tail", "Number of last lines to start with, 8 MiB at most.", least=0, most=MOST_LINES, default=1000),
    flag("follow", "Stream new output until the worker no longer runs the entity or the client disconnects."),
    flag("all", "Start with all lines; overrides `tail`."),
    choice("format", "text, or json: one object per line with time, run, stream, line and end.", ("text", "json")),
    flag("timestamps", "Prefix each line of text with its time."),
    instant("since", "Only lines of that time and later, without lines of unknown time."),
    instant("until", "Only lines of that time and earlier."),
    text("run", "Only lines of the run with this id."),
    matching(
        "after",
        "Only lines after this position, `before:newest;run:end:time;...`: times in microseconds, and for each of the"
        " latest runs the `end` and the time of its last line. Replaces `tail`.",
        r"\d{1,18}:\d{1,18}(;[^;:\s]{1,600}:\d{1,18}:\d{1,18}){0,8}",
    ),
)


@dataclass(frozen=True)
class LogQuery:
    """The selection and the format of lines; see :data:`PARAMETERS`. *tail* is None for all lines."""

    tail: int | None
    follow: bool
    json: bool = False
    timestamps: bool = False
    since: datetime | None = None
    until: datetime | None = None
    run: str = ""
    after: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether the output is requested unchanged, so that it need not be split into lines."""
        return not (self.json or self.timestamps or self.since or self.until or self.run or self.after)

    @classmethod
    def of(cls, values: Mapping[str, Any], *, follow: bool) -> "LogQuery":
        """Return the query for the *values* of the parameters."""
        return cls(
            tail=None if values["all"] else values["tail"],
            follow=follow,
            json=values["format"] == "json",
            timestamps=values["timestamps"],
            since=values["since"],
            until=values["until"],
            run=values["run"] or "",
            after=values["after"] or "",
        )


_POLL_SECONDS = 1.0
_MOST_STREAMS = 100


class LogSource(Protocol):
    """The source of entities' output."""

    def is_live(self, entity_id: str) -> bool:
        """Whether this process receives the output as it is printed."""

    def output(
        self, entity_id: str, *, tail_lines: int | None = None, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """Yield the last lines and, with *follow*, new output. Raises RuntimeFault."""

    def records(self, entity_id: str, query: LogQuery) -> AsyncGenerator[bytes, None]:
        """Yield the lines selected by *query*, in its format. Raises RuntimeFault."""


class Streams:
    """Maximum number of streams that this process sends at once: each holds a connection and some megabytes."""

    def __init__(self, most: int = _MOST_STREAMS) -> None:
        self._most = most
        self._number = 0

    def __enter__(self) -> None:
        if self._number >= self._most:
            raise Refused(503, f"{self._most} logs are already being followed here; try again later")
        self._number += 1

    def __exit__(self, *_: object) -> None:
        self._number -= 1


async def send(
    request: web.Request,
    pieces: AsyncGenerator[bytes, None],
    *,
    source: str,
    is_known: bool,
    json: bool = False,
    goes_on: Callable[[], bool] = lambda: True,
) -> web.StreamResponse:
    """Send *pieces* until they end, the client disconnects, or *goes_on*, called each second, returns false.

    Args:
        is_known: whether the entity exists; if not, missing output is an error.
        json: whether *pieces* are JSON objects, one per line.

    Raises:
        Refused: there is neither an entity nor output.
        RuntimeFault: the output could not be read, and nothing was sent yet.
    """
    headers = {SOURCE: source, TIME: str(time.time_ns() // 1000), **_NO_BUFFERING}
    response = web.StreamResponse(headers=headers)
    response.content_type, response.charset = ("application/x-ndjson" if json else "text/plain"), "utf-8"
    try:
        # Close the inner one first: *pieces* cannot be closed while its next piece is awaited.
        async with aclosing(pieces), aclosing(_ticking(pieces)) as ticking:
            async for piece in ticking:
                if piece or (is_known and not response.prepared):
                    # Also at the first tick: the client must learn that it is served although nothing was printed.
                    await _write(request, response, piece)
                if not goes_on() or _has_gone(request):
                    break
    except RuntimeFault as fault:
        if not response.prepared:
            raise
        await _write(request, response, _note(f"[the0: the rest of the output cannot be read: {fault}]", json=json))
    except ConnectionError:
        return response  # the client disconnected
    if not response.prepared and not is_known:
        raise Refused(404, "no entity has that id, and there is no output of one")
    with suppress(ConnectionError):
        await _write(request, response, b"")
        await response.write_eof()
    return response


def _note(text: str, *, json: bool) -> bytes:
    if not json:
        return f"{text}\n".encode(errors="replace")
    record = {"time": None, "run": None, "stream": "runtime", "line": text, "end": None}
    return dumps(record).encode() + b"\n"


async def _ticking(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield *pieces*, and an empty piece after each second without one."""
    waiting = asyncio.ensure_future(anext(pieces))
    try:
        while True:
            done, _ = await asyncio.wait([waiting], timeout=_POLL_SECONDS)
            if not done:
                yield b""
                continue
            try:
                piece = waiting.result()
            except StopAsyncIteration:
                return
            yield piece
            waiting = asyncio.ensure_future(anext(pieces))
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])


async def _write(request: web.Request, response: web.StreamResponse, piece: bytes) -> None:
    if not response.prepared:
        await response.prepare(request)
    if piece:
        await response.write(piece)


def _has_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()
