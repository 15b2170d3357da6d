"""A TCP proxy that a test puts before a server: a black hole, a slow link, or one that refuses connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tools.stack.ports import free_port

_CHUNK_BYTES = 65_536


class TcpProxy:
    """Passes bytes both ways; connections stay open while bytes are held back, and none is lost.

    Args:
        target_port: of the server, on 127.0.0.1.
        host: the address of this machine on which the proxy listens.
        port: on which it listens; None: any free one.
    """

    def __init__(self, target_port: int, *, host: str = "127.0.0.1", port: int | None = None) -> None:
        self.host = host
        self.port = port or free_port()
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._is_cut = False
        self._delay_seconds = 0.0
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
        await proxy.open()
        try:
            yield proxy
        finally:
            await proxy.close()

    async def open(self) -> None:
        """Accept connections."""
        self._server = await self._listen()

    async def close(self) -> None:
        """End all connections, and accept no more."""
        if self._server is not None:
            self._server.close()
        await self._drop()

    def hold_back(self) -> None:
        """Pass nothing on from now on, either way, on new connections neither."""
        self._requests.clear()
        self._answers.clear()

    def hold_back_answers(self) -> None:
        """Pass requests on, and no answers."""
        self._answers.clear()

    def let_through(self) -> None:
        """Pass on all that was held back, also on connections that the client has closed since; undo all faults."""
        self._is_cut = False
        self._delay_seconds = 0.0
        self._requests.set()
        self._answers.set()

    def slow_down(self, seconds: float) -> None:
        """Pass each packet on only after that time, either way."""
        self._delay_seconds = seconds

    async def cut(self) -> None:
        """End all connections, and refuse new ones."""
        self._is_cut = True
        await self._drop()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, self.host, self.port)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._target_port)

    async def _drop(self) -> None:
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        ends = [writer]
        dropped = False
        try:
            if self._is_cut:
                return
            server_reader, server_writer = await self._reach()
            ends.append(server_writer)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass_on(reader, server_writer, self._requests))
                tasks.create_task(self._pass_on(server_reader, writer, self._answers))
        except* OSError:
            pass
        except* asyncio.CancelledError:
            dropped = True
        finally:
            self._connections.discard(task)
            for end in ends:
                if dropped:  # what it has not sent yet may never be read: the other side can be frozen
                    end.transport.abort()
                else:
                    end.close()
            for end in ends:
                with suppress(OSError, asyncio.CancelledError):
                    await end.wait_closed()

    async def _pass_on(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, through: asyncio.Event) -> None:
        while chunk := await source.read(_CHUNK_BYTES):
            await through.wait()
            if self._delay_seconds:
                await asyncio.sleep(self._delay_seconds)
            if to.is_closing():  # the client has gone, and what it sent before must arrive all the same
                continue
            with suppress(ConnectionError):
                to.write(chunk)
                await to.drain()
        await through.wait()
        with suppress(OSError):
            to.write_eof()


class SocketProxy(TcpProxy):
    """The same before a server on a Unix socket, such as a Docker engine; it listens on the socket *path*."""

    def __init__(self, target: str, path: str) -> None:
        super().__init__(0, port=1)
        self._target = target
        self._path = path

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._serve, self._path)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self._target)
