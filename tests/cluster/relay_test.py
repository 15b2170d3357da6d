import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from tests.cluster.relay import relay

_ANSWER = b"x" * 3_000_000


@contextlib.asynccontextmanager
async def _relayed(answer: bytes) -> AsyncIterator[int]:
    """Start a relay to a server that answers a whole request, and return the relay's port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read()
        writer.write(request + answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        far = server.sockets[0].getsockname()
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        running = asyncio.create_task(relay(listener, far[0], far[1]))
        yield port
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_relay_passes_on_all_of_an_answer_after_the_request_s_end() -> None:
    async with _relayed(_ANSWER) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"request ")
        writer.write_eof()

        assert await asyncio.wait_for(reader.read(), 30) == b"request " + _ANSWER
        writer.close()
        await writer.wait_closed()


async def test_relay_closes_a_connection_when_nothing_answers() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as closed:
        unused = closed.getsockname()[1]
    running = asyncio.create_task(relay(listener, "127.0.0.1", unused))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
