"""Closes the sockets that PyMongo forgets: the one it is just opening when its task is cancelled (4.20).

The interpreter closes them too, a moment later, and warns; in the tests, where a warning is an error and workers die in
the middle of their work, that would fail whichever test comes next. Nothing else is hidden: a connection that is open
and forgotten still warns.
"""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import pool_shared

_OPEN = "_async_create_connection"


@pytest.fixture(scope="session", autouse=True)
def no_abandoned_connections() -> Iterator[None]:
    """Let PyMongo finish opening a connection that nobody waits for any more, and close it then."""
    with pytest.MonkeyPatch.context() as patch:
        opened = getattr(pool_shared, _OPEN)

        async def opened_or_closed(*arguments: Any) -> socket.socket:
            opening = asyncio.ensure_future(opened(*arguments))
            try:
                return await asyncio.shield(opening)
            except asyncio.CancelledError:
                opening.add_done_callback(_close)
                raise

        patch.setattr(pool_shared, _OPEN, opened_or_closed)
        yield


def _close(opening: "asyncio.Future[socket.socket]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
