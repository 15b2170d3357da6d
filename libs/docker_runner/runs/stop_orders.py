"""End containers: by an order that a later one may make more urgent, and with a record before the removal."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from libs.core.aio.wake import Wake
from libs.docker_runner.containers.container import Ended, ManagedContainer
from libs.docker_runner.runs.run_engine import AttemptEngine


@dataclass(frozen=True)
class StopOrder:
    """An order to end an attempt or not to start it.

    Attributes:
        grace_seconds: from SIGTERM to SIGKILL; below 1: SIGKILL at once.
        again: whether an attempt that was not started may be repeated later.
        interrupts: whether a start in progress is cancelled; otherwise its container is ended after the start.
    """

    reason: str
    grace_seconds: float = 0.0
    again: bool = False
    interrupts: bool = False
    message: str = ""


async def stop_by_order(
    stop: Callable[[StopOrder], Awaitable[Ended]],
    order: StopOrder,
    *,
    latest: Callable[[], StopOrder | None],
    wake: Wake,
) -> tuple[StopOrder, Ended]:
    """End a container by *order*, or sooner by a later order with a shorter grace.

    Args:
        stop: ends the container by an order, also while it is being ended by an earlier one. Its errors are raised.
        latest: returns the current order; *wake* is set when it may have changed.

    Returns:
        The order that ended the container, and how it ended.
    """
    stopping = asyncio.ensure_future(stop(order))
    try:
        while not stopping.done():
            changing = asyncio.ensure_future(wake.wait_at_most(None))
            try:
                await asyncio.wait({stopping, changing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changing.cancel()
            sooner = latest()
            if sooner is not None and sooner.grace_seconds < order.grace_seconds:
                return sooner, await stop(sooner)
        return order, stopping.result()
    finally:
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)


async def retire(
    engine: AttemptEngine,
    container: ManagedContainer,
    grace_seconds: float,
    record: Callable[[Ended], Awaitable[object]],
) -> None:
    """End *container*, record its end and then remove it.

    Raises:
        Retryable: it may still run; call again.
    """
    await record(await engine.stop(container, grace_seconds))
    await engine.remove(container)
