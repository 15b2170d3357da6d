"""The input and output of a further process in a container."""

import asyncio

from libs.core.observability.log import get_logger
from libs.docker_runner.engine.http import read_frame
from libs.docker_runner.errors import EngineUnavailable

log = get_logger(__name__)

_STDERR = 2
_FRAME_BYTES = 1024 * 1024
_WRITE_SECONDS = 10.0
_LOGGED_CHARACTERS = 300


class ExecChannel:
    """A process of the engine's exec API. What it writes to its standard error goes to the log of this process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, what: str) -> None:
        self._reader = reader
        self._writer = writer
        self._what = what

    async def read(self) -> bytes:
        """Return the next bytes; empty at the end.

        Raises:
            EngineUnavailable: the connection broke.
        """
        try:
            while (frame := await read_frame(self._reader, self._what, _FRAME_BYTES)) is not None:
                kind, data = frame
                if kind != _STDERR and data:
                    return data
                text = data.decode("utf-8", "replace").strip()[:_LOGGED_CHARACTERS]
                log.warning("a process in a container reports", what=self._what, text=text)
        except OSError as error:
            raise EngineUnavailable(self._what, "the stream ended prematurely") from error
        return b""

    async def write(self, data: bytes) -> None:
        """Send *data*.

        Raises:
            EngineUnavailable: the connection broke, or the process takes nothing.
        """
        try:
            self._writer.write(data)
            async with asyncio.timeout(_WRITE_SECONDS):
                await self._writer.drain()
        except (OSError, TimeoutError, RuntimeError) as error:
            raise EngineUnavailable(self._what, str(error) or "nothing was taken in time") from error

    def close(self) -> None:
        """End the process's input. May be repeated."""
        self._writer.close()
