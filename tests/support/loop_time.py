"""How long the event loop is blocked for other tasks, measured independently of the machine's load."""

import asyncio
import gc
import time
from typing import Any


async def busiest_seconds(task: "asyncio.Future[Any]") -> float:
    """Return the longest processor time between turns of other tasks, until *task* is done.

    Garbage collection is disabled: its duration depends on all earlier tests.
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
