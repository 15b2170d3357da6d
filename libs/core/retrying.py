"""Doing a thing until it works, when there is nothing else to do meanwhile."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from libs.core.errors import Retryable, RuntimeFault
from libs.core.log import get_logger

log = get_logger(__name__)

_FIRST_SECONDS = 0.2
_LONGEST_SECONDS = 5.0
_JITTER_SECONDS = 0.5

T = TypeVar("T")


async def persistently(
    call: Callable[[], Awaitable[T]], *, faults: type[RuntimeFault] | tuple[type[RuntimeFault], ...] = Retryable
) -> T:
    """Call it until it raises none of *faults*, with backoff; what else it raises is raised. Cancelling ends it."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(faults),
        wait=wait_exponential(multiplier=_FIRST_SECONDS, max=_LONGEST_SECONDS) + wait_random(0, _JITTER_SECONDS),
        before_sleep=_tell,
    )

    # Tenacity awaits only what it sees to be a coroutine function, which a lambda is not.
    async def once() -> T:
        return await call()

    return await retrying(once)


def _tell(state: RetryCallState) -> None:
    failure = state.outcome.exception() if state.outcome is not None else None
    log.warning("tried again", reason=str(failure), in_seconds=round(state.upcoming_sleep, 2))
