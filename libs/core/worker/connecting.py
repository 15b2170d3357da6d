"""Connect to a master at an address that may belong to several, of which one may be gone.

Each connection to a Kubernetes Service leads to one of the pods behind it. For about 50 s after the loss of a node that
may be a pod of this node, which never answers, while another attempt leads to a master.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

_NEXT_SECONDS = 0.4
"""How long an attempt stays the only one."""

_FAILED = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)


@asynccontextmanager
async def connecting(
    make: Callable[[], grpc.aio.Channel], within_seconds: float
) -> AsyncIterator[tuple[grpc.aio.Channel | None, bool]]:
    """Yield a channel and whether it is connected: the first of several that connects, else one that was refused.

    Without any answer in time there is no channel. All are closed at the end.

    Args:
        make: returns another channel to the same address, with a connection of its own.
    """
    async with AsyncExitStack() as stack:
        attempts: dict[asyncio.Task[bool], grpc.aio.Channel] = {}
        try:
            found = await _first(make, within_seconds, attempts, stack)
        finally:
            for task in attempts:
                task.cancel()
            if attempts:
                await asyncio.wait(attempts)
        yield found


async def _first(
    make: Callable[[], grpc.aio.Channel],
    within_seconds: float,
    attempts: dict[asyncio.Task[bool], grpc.aio.Channel],
    stack: AsyncExitStack,
) -> tuple[grpc.aio.Channel | None, bool]:
    """Return what :func:`connecting` yields; *attempts* and *stack* get what was begun."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_seconds
    refused = None
    while (now := loop.time()) < end:
        channel = await stack.enter_async_context(make())
        attempts[asyncio.create_task(_connects(channel), name="connect to a master")] = channel
        open_tasks = [task for task in attempts if not task.done()]
        await asyncio.wait(open_tasks, timeout=min(_NEXT_SECONDS, end - now), return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in attempts if task.done()]
        for task in ended:
            if task.result():
                return attempts[task], True
            refused = attempts[task]
        if len(ended) == len(attempts):
            break  # a refusal is an answer: the caller waits before it tries again
    return refused, False


async def _connects(channel: grpc.aio.Channel) -> bool:
    """Connect, and return whether that succeeded: False at the first refusal."""
    while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
        if state in _FAILED:
            return False
        await channel.wait_for_state_change(state)
    return True
