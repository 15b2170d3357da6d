"""Close the sockets that PyMongo leaks: the one it is opening when its task is cancelled (4.20).

The interpreter closes them too, slightly later, and warns. In tests a warning is an error and workers are killed
during their work, so whichever test comes next would fail. Nothing else is hidden: other leaked connections
still warn.
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
    """Let PyMongo finish opening a connection whose task was cancelled, and close it then."""
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
