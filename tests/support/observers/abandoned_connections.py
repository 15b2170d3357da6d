"""Close the sockets that PyMongo leaks: the one it is opening when its task is cancelled (4.20).

The interpreter closes them too, slightly later, and warns. In tests a warning is an error and workers are killed
during their work, so whichever test comes next would fail. Nothing else is hidden: other leaked connections
still warn.
"""

import asyncio
import socket
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import pool_shared

_OPEN = "_async_create_connection"


@pytest.fixture(scope="session", autouse=True)
def no_abandoned_connections() -> Iterator[None]:
    """Close the socket that PyMongo's function was opening when it was cancelled, also by the end of its loop."""
    with pytest.MonkeyPatch.context() as patch:
        opened = getattr(pool_shared, _OPEN)

        async def opened_or_closed(*arguments: Any) -> Any:
            try:
                return await opened(*arguments)
            except asyncio.CancelledError as cancelled:
                # Only the local variable of PyMongo's function refers to the socket.
                for frame, _ in traceback.walk_tb(cancelled.__traceback__):
                    opening = frame.f_locals.get("sock")
                    if frame.f_code is opened.__code__ and isinstance(opening, socket.socket):
                        opening.close()
                raise

        patch.setattr(pool_shared, _OPEN, opened_or_closed)
        yield
