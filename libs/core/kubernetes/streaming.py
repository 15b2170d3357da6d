"""Lines of a streamed answer, which a thread reads: the SDK blocks."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

from libs.core.kubernetes.errors import ClusterUnavailable

_MOST_WAITING = 1000


async def lines_of(open_stream: Callable[[], Any], host: str) -> AsyncGenerator[bytes, None]:
    """Yield the lines of the response that *open_stream* returns. It and all reads run in a daemon thread.

    The thread ends with the response: when it is closed here, or by the server.

    Raises:
        ClusterUnavailable: the connection failed. A response that ends is no failure.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
    room = threading.Semaphore(_MOST_WAITING)
    opened: list[Any] = []
    left = threading.Event()

    def put(item: bytes | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def read() -> None:
        try:
            response = open_stream()
            opened.append(response)
            buffer = b""
            while not left.is_set() and (chunk := response.read1()):
                *complete, buffer = (buffer + chunk).split(b"\n")
                for line in complete:
                    room.acquire()
                    put(line)
            put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised where the lines are awaited
            put(error)

    threading.Thread(target=read, name="kubernetes watch", daemon=True).start()
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, BaseException):
                if isinstance(item, ClusterUnavailable):
                    raise item
                raise ClusterUnavailable(f"{host} ended the watch: {item}") from item
            room.release()
            yield item
    finally:
        left.set()
        room.release()
        for response in opened:
            # Ends a read in the thread; close() alone would wait for it.
            with suppress(Exception):
                response.shutdown()
            with suppress(Exception):
                response.close()
