"""Outlive errors that no code expects: log the traceback, count the error, and try again later.

Errors that are expected have types (`Retryable`, `UserError`) and are handled where they are understood. Anything else
is a defect, here or in a library, or a state of the host that nobody thought of. It must cost the one bot or the one
round that met it, and never the loop: the loop also carries the kill switch. Cancellation always passes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from prometheus_client import Counter

from libs.core.aio.backoff import Backoff
from libs.core.aio.wake import Wake
from libs.core.errors import Retryable
from libs.core.observability.log import get_logger

log = get_logger(__name__)

UNEXPECTED = Counter("runtime_unexpected_errors_total", "Unexpected errors, by the interrupted operation.", ["where"])

_FIRST_RETRY_SECONDS = 0.2


def unexpected(where: str, error: Exception, **about: object) -> None:
    """Log *error* with its traceback, and count it.

    Args:
        where: the work that was interrupted, a name from a small fixed set; it is the metric's label.
        about: what the work was about, such as the bot's id; for the log alone.
    """
    UNEXPECTED.labels(where).inc()
    log.error("unexpected error", where=where, error=f"{type(error).__name__}: {error}", exc_info=error, **about)


@contextmanager
def isolated(where: str, *, passing: type[Exception] | tuple[type[Exception], ...] = Retryable) -> Iterator[None]:
    """Run the block, and go on behind it whatever it raises but *passing*; see :func:`unexpected`.

    For one step of many: the others are not its victims. The caller sees to it that the step is tried again.
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
) -> NoReturn:
    """Call *step* for ever. A call that fails, for whatever reason, is followed by another one, with backoff.

    Args:
        where: the name of the loop, for the log and the metric.
        step: one round; returns the pause until the next one in seconds, None for *interval_seconds*.
        wake: ends a pause early when it is set.
        longest_retry_seconds: the most that is waited after a failure; None for *interval_seconds*.
    """
    cap_seconds = longest_retry_seconds if longest_retry_seconds is not None else interval_seconds
    backoff = Backoff(min(_FIRST_RETRY_SECONDS, cap_seconds), cap_seconds)
    while True:
        try:
            pause = await step()
        except Retryable as error:
            pause = backoff.next_seconds()
            log.warning("round failed", where=where, reason=str(error), retry_in_seconds=round(pause, 2))
        except Exception as error:  # noqa: BLE001 - the loop outlives it
            pause = backoff.next_seconds()
            unexpected(where, error, retry_in_seconds=round(pause, 2))
        else:
            backoff.reset()
            pause = interval_seconds if pause is None else pause
        if wake is None:
            await asyncio.sleep(pause)
        else:
            await wake.wait_at_most(pause)
