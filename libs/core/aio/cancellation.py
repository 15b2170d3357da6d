"""Cancellation that drivers lose.

In Python 3.11 `asyncio.wait_for` swallows a cancellation that comes in the moment its awaited thing ends, and the
drivers use it for every round trip. A loop that is cancelled once would then run on for ever.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Around calls of a driver: a cancellation that came meanwhile is raised at the end if the driver lost it.

    It goes before an error of the driver's. One that came before the block is not raised: clean-up code of a
    cancelled task may still use the driver.
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
