"""Survive unexpected errors: log the traceback, count the error, and retry later.

Expected errors have types (`Retryable`, `UserError`) and are handled where they are understood. Any other error is a
defect, here or in a library, or an unforeseen state of the host. It must affect only the bot or the round in which it
occurs, and never the loop: the loop also carries the kill switch. Cancellation always propagates.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NoReturn

from prometheus_client import Counter

from libs.core.aio.backoff import Backoff
from libs.core.aio.coalescing import coalesced
from libs.core.aio.wake import Wake
from libs.core.errors import Retryable
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe

log = get_logger(__name__)

UNEXPECTED = Counter("runtime_unexpected_errors_total", "Unexpected errors, by the interrupted operation.", ["where"])

_FIRST_RETRY_SECONDS = 0.2


def unexpected(where: str, error: Exception, **about: object) -> None:
    """Log *error* with its traceback, and count it.

    Args:
        where: the interrupted operation, a name from a small fixed set; it is the metric's label.
        about: details such as the bot's id; only for the log.
    """
    UNEXPECTED.labels(where).inc()
    log.error("unexpected error", where=where, error=f"{type(error).__name__}: {error}", exc_info=error, **about)


@contextmanager
def isolated(where: str, *, passing: type[Exception] | tuple[type[Exception], ...] = Retryable) -> Iterator[None]:
    """Run the block, and continue after it regardless of its errors except *passing*; see :func:`unexpected`.

    For one step of many: the others must still run. The caller ensures that the step is retried.
    """
    try:
        yield
    except passing:
        raise
    except Exception as error:  # noqa: BLE001 - that is what this is for
        unexpected(where, error)


async def repeat(
    where: str,
    step: Callable[[], Awaitable[float | None]],
    interval_seconds: float,
    *,
    wake: Wake | None = None,
    longest_retry_seconds: float | None = None,
    operation: str | None = None,
) -> NoReturn:
    """Call *step* forever. A failed call is repeated with backoff.

    Args:
        where: the name of the loop, for the log and the metric.
        step: one round; returns the pause before the next one in seconds, None for *interval_seconds*. It may become
            shorter, to end together with other pauses.
        wake: ends a pause early when set.
        longest_retry_seconds: the maximum delay after a failure; None for *interval_seconds*.
        operation: the name under which each round is measured as a reconciliation; None: it is not.
    """
    cap_seconds = longest_retry_seconds if longest_retry_seconds is not None else interval_seconds
    backoff = Backoff(min(_FIRST_RETRY_SECONDS, cap_seconds), cap_seconds)
    while True:
        try:
            with observe("reconcile", operation) if operation is not None else nullcontext():
                pause = await step()
        except Retryable as error:
            pause = backoff.next_seconds()
            log.warning("round failed", where=where, reason=str(error), retry_in_seconds=round(pause, 2))
        except Exception as error:  # noqa: BLE001 - the loop outlives it
            pause = backoff.next_seconds()
            unexpected(where, error, retry_in_seconds=round(pause, 2))
        else:
            backoff.reset()
            pause = coalesced(interval_seconds if pause is None else pause)
        if wake is None:
            await asyncio.sleep(pause)
        else:
            await wake.wait_at_most(pause)
