"""Retry an operation until it succeeds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from libs.core.aio.backoff import Backoff
from libs.core.errors import Retryable, RuntimeFault
from libs.core.observability.log import get_logger

log = get_logger(__name__)

_FIRST_SECONDS = 0.4
_LONGEST_SECONDS = 5.0

T = TypeVar("T")


async def retry_forever(
    call: Callable[[], Awaitable[T]], *, faults: type[RuntimeFault] | tuple[type[RuntimeFault], ...] = Retryable
) -> T:
    """Call it until it raises none of *faults*, with backoff. Other errors propagate; cancellation ends the loop."""
    backoff = Backoff(_FIRST_SECONDS, _LONGEST_SECONDS)
    while True:
        try:
            return await call()
        except faults as fault:
            wait_seconds = backoff.next_seconds()
            log.warning("operation failed; it is retried", reason=str(fault), in_seconds=round(wait_seconds, 2))
        await asyncio.sleep(wait_seconds)
