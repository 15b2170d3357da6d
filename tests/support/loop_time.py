"""For how long the event loop is kept from others, as a machine that is busy with other things may measure it."""

import asyncio
import gc
import time
from typing import Any


async def busiest_seconds(task: "asyncio.Future[Any]") -> float:
    """The longest processor time that passed before others had their turn, until *task* is done.

    The collector rests meanwhile: how long it takes depends on all the tests before.
    """
    longest = 0.0
    gc.disable()
    try:
        while not task.done():
            before = time.thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - before)
    finally:
        gc.enable()
    return longest
