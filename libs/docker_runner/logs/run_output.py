"""The complete output of a run, written to a file."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from libs.core.aio.backoff import Backoff
from libs.core.observability.log import get_logger
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.http import EngineRefused
from libs.docker_runner.errors import DiskUnavailable, EngineUnavailable
from libs.docker_runner.logs.masking import Masker, masked_pieces
from libs.docker_runner.logs.output import last_lines_in
from libs.docker_runner.logs.position import BEGINNING, Resumption, nanoseconds

log = get_logger(__name__)

_BUFFER_BYTES = 256 * 1024


class RunOutput:
    """Follows one container's output into *path* until it ends, across failures of the engine.

    Args:
        max_bytes: what is kept in the file.
        masker: masks the values of secrets; None masks nothing.
    """

    def __init__(
        self, engine: Engine, container: str, path: Path, max_bytes: int, masker: Masker | None = None
    ) -> None:
        self._engine = engine
        self._container = container
        self._path = path
        self._left = max_bytes
        self._masker = masker
        self._position = BEGINNING
        self._taken = 0
        self.truncated = False
        """Whether the end is missing in the file."""
        self._whole = False

    async def follow(self) -> None:
        """Return at the end of the output."""
        backoff = Backoff(0.1, 5.0)
        with self._opened() as file:
            while True:
                try:
                    await self._take(file)
                except EngineUnavailable as error:
                    log.warning("output cannot be followed now", container=self._container, reason=str(error))
                except EngineRefused as error:
                    # The container is gone with its output.
                    log.warning("output is lost", container=self._container, reason=str(error))
                    return
                else:
                    break
                await asyncio.sleep(backoff.next_seconds())
        self._whole = not self.truncated

    async def until_silent(self, following: "asyncio.Task[None]", seconds: float) -> None:
        """Return when *following*, the task that runs :meth:`follow`, is done, or after *seconds* without output.

        For the rest of an ended container's output, regardless of its size and of the engine's speed. Errors of
        *following* propagate.
        """
        before = -1
        while not following.done() and before != self._taken:
            before = self._taken
            await asyncio.wait({following}, timeout=seconds)
        if following.done():
            following.result()
        else:
            self.truncated = True

    def last_lines(self) -> list[str] | None:
        """Return the last lines, once all output is in the file; None when only the engine may have all of them."""
        if not self._whole:
            return None
        with self._path.open("rb") as file:
            return last_lines_in(file)

    async def _take(self, file: BinaryIO) -> None:
        resumption = Resumption(self._position)
        raw = self._engine.logs(self._container, since=self._position.since, follow=True)
        async with aclosing(masked_pieces(raw, self._masker)) as pieces:
            async for piece in pieces:
                if not resumption.is_new(nanoseconds(piece.timestamp)):
                    continue
                self._position = resumption.position
                self._taken += 1
                self._keep(file, piece.data)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Open the file for writing; buffered data is written at the end, unless the block fails."""
        try:
            file = self._path.open("wb", buffering=_BUFFER_BYTES)
        except OSError as error:
            raise DiskUnavailable("the output of a run", error) from error
        try:
            yield file
        except BaseException:
            with suppress(OSError):
                file.close()
            raise
        try:
            file.close()
        except OSError as error:
            raise DiskUnavailable("the output of a run", error) from error

    def _keep(self, file: BinaryIO, data: bytes) -> None:
        if len(data) > self._left:
            self.truncated = True
        try:
            file.write(data[: self._left])
        except OSError as error:
            raise DiskUnavailable("the output of a run", error) from error
        self._left = max(0, self._left - len(data))
