"""Relay connections of the machine's processes to the API server, from a socket of the machine's network.

The socket is inherited: it was opened before this process entered the cluster's network namespace.
"""

import asyncio
import contextlib
import socket
import sys

from tests.cluster.layout import API_ADDRESS, API_PORT

_CHUNK_BYTES = 1 << 16


async def relay(listener: socket.socket, host: str, port: int) -> None:
    """Relay each connection at *listener* to a port of *host*, until cancelled."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve(reader, writer, host, port)

    server = await asyncio.start_server(serve, sock=listener)
    async with server:
        await server.serve_forever()


async def _serve(near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter, host: str, port: int) -> None:
    try:
        far_in, far_out = await asyncio.open_connection(host, port)
    except OSError:
        near_out.transport.abort()
        return
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(near_in, far_out))
            group.create_task(_copy(far_in, near_out))
    except* OSError:  # one side is gone, so nothing reaches the other one any more
        far_out.transport.abort()
        near_out.transport.abort()
    finally:
        far_out.close()
        near_out.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK_BYTES):
        target.write(data)
        await target.drain()
    with contextlib.suppress(OSError):
        target.write_eof()


if __name__ == "__main__":
    asyncio.run(relay(socket.socket(fileno=int(sys.argv[1])), API_ADDRESS, API_PORT))
