"""One reader of the engine's events for a whole process, and as many listeners as there are segments."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime

from libs.core.process.isolation import repeat
from libs.docker_runner.engine.events import ContainerEvent, EventKind

_MOST_QUEUED = 10_000
_AGAIN_SECONDS = 1.0


class EventHub:
    """Hands each event of *source* to every listener.

    Args:
        source: opens the stream of events, which never ends by itself.
    """

    def __init__(self, source: Callable[[], AsyncGenerator[ContainerEvent, None]]) -> None:
        self._source = source
        self._listeners: set[asyncio.Queue[ContainerEvent]] = set()

    async def run(self) -> None:
        """Read the events for ever. Without it listeners hear nothing but the first RESYNC."""
        await repeat("read container events", self._read, _AGAIN_SECONDS)

    async def _read(self) -> None:
        # The first event of each stream is a RESYNC, so that nobody misses what happened between two of them.
        async with aclosing(self._source()) as events:
            async for event in events:
                for listener in self._listeners:
                    _put(listener, event)

    async def events(self) -> AsyncGenerator[ContainerEvent, None]:
        """Yield a RESYNC first, then events as they come. A listener that falls far behind gets a RESYNC instead."""
        queue: asyncio.Queue[ContainerEvent] = asyncio.Queue(_MOST_QUEUED)
        self._listeners.add(queue)
        try:
            yield _resync()
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)


def _put(listener: asyncio.Queue[ContainerEvent], event: ContainerEvent) -> None:
    if listener.full():
        while not listener.empty():
            listener.get_nowait()
        event = _resync()
    listener.put_nowait(event)


def _resync() -> ContainerEvent:
    return ContainerEvent(EventKind.RESYNC, datetime.now(UTC))
