"""A TCP proxy that a test puts before a server, to hold back what goes through it: a black hole, not a refusal."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tools.stack.ports import free_port

_CHUNK_BYTES = 65_536


class TcpProxy:
    """Passes bytes both ways on 127.0.0.1; connections stay open while bytes are held back, and none is lost."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._target_port = target_port
        self._requests = asyncio.Event()
        self._answers = asyncio.Event()
        self._requests.set()
        self._answers.set()
        self._connections: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def before(cls, target_port: int) -> AsyncIterator["TcpProxy"]:
        """A proxy before the server on that port, for as long as the block lasts."""
        proxy = cls(target_port)
        server = await asyncio.start_server(proxy._serve, "127.0.0.1", proxy.port)
        try:
            yield proxy
        finally:
            server.close()
            for connection in list(proxy._connections):
                connection.cancel()
            await asyncio.gather(*proxy._connections, return_exceptions=True)

    def hold_back(self) -> None:
        """Pass nothing on from now on, either way, on new connections neither."""
        self._requests.clear()
        self._answers.clear()

    def hold_back_answers(self) -> None:
        """Pass requests on, and no answers."""
        self._answers.clear()

    def let_through(self) -> None:
        """Pass on all that was held back, also on connections that the client has closed since."""
        self._requests.set()
        self._answers.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        ends = [writer]
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            ends.append(server_writer)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pass_on(reader, server_writer, self._requests))
                tasks.create_task(_pass_on(server_reader, writer, self._answers))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for end in ends:
                end.close()
            for end in ends:
                with suppress(OSError, asyncio.CancelledError):
                    await end.wait_closed()


async def _pass_on(source: asyncio.StreamReader, to: asyncio.StreamWriter, through: asyncio.Event) -> None:
    while chunk := await source.read(_CHUNK_BYTES):
        await through.wait()
        with suppress(ConnectionError):  # the client has gone, and what it sent before must arrive all the same
            to.write(chunk)
            await to.drain()
    await through.wait()
    with suppress(OSError):
        to.write_eof()
