"""A relay between the runner and the engine with the faults of networks and engines."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


class EngineRelay:
    """Forwards bytes to the engine's socket and back, with faults on request."""

    def __init__(self, socket: Path, engine_url: str) -> None:
        self.url = f"unix://{socket}"
        self.swallow_answers_to: bytes | None = None
        """Lose the answer to the next request with this in its first line; the engine has carried it out."""
        self.no_answers_from: bytes | None = None
        """Stop answering from the next request with this in its first line on; earlier answers continue."""
        self.requests: list[str] = []
        """First lines of all requests so far, if they came at the beginning of a packet."""
        self._socket = socket
        self._engine = engine_url.removeprefix("unix://")
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._silent = False

    async def open(self) -> None:
        """Accept connections."""
        self._socket.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._socket))

    async def close(self) -> None:
        """Drop all connections and accept no more, like an engine that restarts."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        ends = [writer]
        try:
            engine_reader, engine_writer = await asyncio.open_unix_connection(self._engine)
            ends.append(engine_writer)
            async with asyncio.TaskGroup() as tasks:
                answers = _Answers()
                tasks.create_task(self._up(reader, engine_writer, answers))
                tasks.create_task(self._down(engine_reader, writer, answers))
        except* (ConnectionError, OSError):
            pass
        finally:
            self._connections.discard(task)
            for end in ends:
                end.close()
                with suppress(ConnectionError, OSError):
                    await end.wait_closed()

    async def _up(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, answers: "_Answers") -> None:
        while data := await source.read(65536):
            first_line = data.partition(b"\r\n")[0]
            self.requests.append(first_line.decode(errors="replace"))
            wanted = self.swallow_answers_to
            if wanted is not None and wanted in first_line:
                self.swallow_answers_to = None
                answers.lost = True
            self._silent = self._silent or (self.no_answers_from is not None and self.no_answers_from in first_line)
            answers.held_back = answers.held_back or self._silent
            target.write(data)
            await target.drain()
        target.write_eof()

    async def _down(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, answers: "_Answers") -> None:
        while data := await source.read(65536):
            if answers.lost:
                raise ConnectionError("the answer is lost, and the connection with it")
            if answers.held_back:
                continue
            target.write(data)
            await target.drain()
        target.close()


@dataclass
class _Answers:
    """The fault of the answers on one connection."""

    lost: bool = False
    held_back: bool = False


@asynccontextmanager
async def engine_relay(directory: Path, engine_url: str) -> AsyncIterator[EngineRelay]:
    """Return a relay whose socket is in *directory*."""
    relay = EngineRelay(directory / "engine.sock", engine_url)
    await relay.open()
    try:
        yield relay
    finally:
        await relay.close()
