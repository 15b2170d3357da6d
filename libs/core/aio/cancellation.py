"""Restore cancellations that drivers swallow.

In Python 3.11 `asyncio.wait_for` swallows a cancellation that arrives at the moment its awaitable completes, and
drivers use it for every round trip. A loop that is cancelled once would then run forever.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Wrap calls of a driver: raise a cancellation at the end of the block if the driver swallowed it.

    It takes precedence over an error of the driver. A cancellation from before the block is not raised: clean-up code
    of a cancelled task may still use the driver.
    """
    before = _requests()
    try:
        yield
    except Exception as error:
        if _requests() > before:
            raise asyncio.CancelledError from error
        raise
    if _requests() > before:
        raise asyncio.CancelledError


def _requests() -> int:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs here
        return 0
    return task.cancelling() if task is not None else 0
