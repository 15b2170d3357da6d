import asyncio
import gc
import socket
import warnings
from contextlib import ExitStack

from pymongo import pool_shared
from pymongo.pool_options import PoolOptions


def test_socket_that_pymongo_is_opening_when_its_loop_ends_is_closed() -> None:
    opening: list[asyncio.Task[socket.socket]] = []

    async def main() -> None:
        with ExitStack() as opened:
            server = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            # A full backlog: the next connection is neither accepted nor refused.
            for _ in range(3):
                waiting = opened.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(server.getsockname())
            opening.append(
                asyncio.ensure_future(pool_shared._async_create_connection(server.getsockname(), PoolOptions()))
            )
            await asyncio.sleep(0.1)
            assert not opening[0].done()

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        asyncio.run(main())
        opening.clear()
        gc.collect()

    assert [str(warning.message) for warning in warned] == []
