"""The output of followed containers, with the last lines of each available after its end.

Without it the engine would have to be asked, which may not answer about a dead container for seconds.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import datetime

from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.containers.state_cache import ContainerStateCache
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.http import EngineRefused
from libs.docker_runner.logs.masking import Masker, masked_pieces
from libs.docker_runner.logs.output import LAST_LINES, STREAM_END_SECONDS, LogLine, last_lines_at

_TAIL_BYTES = 16 * 1024


class Tail:
    """The end of one container's output, collected piece by piece."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._cut = False
        self._newest = ""
        self._repeated_until = ""
        self.over = asyncio.Event()
        """Set when the engine has closed the stream after the last piece."""

    def reopen(self) -> None:
        """Restart at an earlier piece: pieces that are already there are not added again."""
        self._repeated_until = self._newest

    def add(self, piece: LogLine) -> None:
        """Add the next piece."""
        # The engine writes nine fraction digits, so that timestamps sort as texts.
        if piece.timestamp <= self._repeated_until:
            return
        self.over.clear()
        self._newest = max(self._newest, piece.timestamp)
        self._pieces.append(piece.data)
        self._bytes += len(piece.data)
        while self._bytes > _TAIL_BYTES:
            self._bytes -= len(self._pieces.popleft())
            self._cut = True

    def lines(self) -> list[str] | None:
        """The last lines; None when there were more than fit in here."""
        return last_lines_at(b"".join(self._pieces), cut=self._cut)


class FollowedOutput:
    """Reads containers' output for their followers: one per container at a time.

    Args:
        masker_of: returns what masks the values of a container's secrets in its output.
    """

    def __init__(
        self,
        engine: Engine,
        states: ContainerStateCache,
        masker_of: Callable[[ManagedContainer], Awaitable[Masker | None]],
    ) -> None:
        self._engine = engine
        self._states = states
        self._masker_of = masker_of
        self._tails: dict[str, Tail] = {}

    async def logs(
        self, container: ManagedContainer, since: datetime | None = None, follow: bool = False
    ) -> AsyncGenerator[LogLine, None]:
        """Yield its output from *since* on, inclusive; with *follow* until it ends.

        Raises:
            DockerRunnerError: the container is gone.
        """
        masker = await self._masker_of(container)
        raw = self._engine.logs(container.container_id, since=since, follow=follow)
        async with aclosing(masked_pieces(raw, masker)) as pieces:
            # The end of unfollowed output is not needed.
            tail = await self._opened(container, masker, whole=since is None) if follow else Tail()
            async for piece in pieces:
                tail.add(piece)
                yield piece
            tail.over.set()

    async def last_lines(self, container_id: str) -> list[str] | None:
        """Return the last lines of a dead container; None when it was not followed to its end."""
        tail = self._tails.get(container_id)
        if tail is None:
            return None
        try:
            async with asyncio.timeout(STREAM_END_SECONDS):
                await tail.over.wait()
        except TimeoutError:
            return None
        return tail.lines()

    def forget(self, container_id: str) -> None:
        """Drop a removed container. May be repeated."""
        self._tails.pop(container_id, None)

    async def _opened(self, container: ManagedContainer, masker: Masker | None, *, whole: bool) -> Tail:
        tail = self._tails.get(container.container_id)
        if tail is None:
            tail = Tail()
            if not whole:
                await self._catch_up(container.container_id, tail, masker)
            self._tails[container.container_id] = tail
        tail.reopen()
        return tail

    async def _catch_up(self, container_id: str, tail: Tail, masker: Masker | None) -> None:
        """Inspect a live container that another process started: after its death it is too late."""
        found = await self._engine.inspect(container_id)
        if found is not None:
            self._states.note_start(container_id, found.container.started_at)
        try:
            async for piece in masked_pieces(self._engine.logs(container_id, tail=LAST_LINES), masker):
                tail.add(piece)
        except EngineRefused:
            return
