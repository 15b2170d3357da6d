"""Doing a thing until it works, when there is nothing else to do meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from libs.core.backoff import Backoff
from libs.core.errors import Retryable, RuntimeFault
from libs.core.log import get_logger

log = get_logger(__name__)

T = TypeVar("T")


async def persistently(
    call: Callable[[], Awaitable[T]], *, faults: type[RuntimeFault] | tuple[type[RuntimeFault], ...] = Retryable
) -> T:
    """Call it until it raises none of *faults*, with backoff; what else it raises is raised. Cancelling ends it."""
    backoff = Backoff(initial_seconds=0.2, cap_seconds=5.0)
    while True:
        try:
            return await call()
        except faults as error:
            pause = backoff.next_seconds()
            log.warning("tried again", reason=str(error), in_seconds=round(pause, 2))
            await asyncio.sleep(pause)
