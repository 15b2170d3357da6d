"""The proxy between a client and a server that does not read, such as a frozen one."""

import asyncio

from tests.support.eventually import eventually
from tests.support.faults.tcp_proxy import TcpProxy


async def test_link_to_a_server_that_reads_nothing_is_cut_at_once() -> None:
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def frozen(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await accepted.put(writer)

    server = await asyncio.start_server(frozen, "127.0.0.1", 0)
    async with TcpProxy.before(server.sockets[0].getsockname()[1]) as proxy:
        _, client = await asyncio.open_connection(proxy.host, proxy.port)
        held = await accepted.get()
        client.write(b"x" * 60_000_000)
        left = [0]

        def stalls() -> bool:
            left.append(client.transport.get_write_buffer_size())
            return 0 < left[-1] == left[-2] < 60_000_000

        await eventually(stalls, every_seconds=0.2)

        async with asyncio.timeout(30):
            await proxy.cut()

        client.transport.abort()
        held.transport.abort()
    server.close()
