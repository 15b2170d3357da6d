"""Run an asynchronous command so that Ctrl-C, SIGTERM and a closed terminal let it clean up first."""

import asyncio
import signal
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure

T = TypeVar("T")


def run(command: Coroutine[Any, Any, T]) -> T:
    """Run *command* to its end and return its result; the first signal cancels it, later ones have no effect.

    Raises:
        Failure: it was interrupted, with the exit code of an interrupt.
    """
    try:
        return asyncio.run(_guarded(command))
    except asyncio.CancelledError:
        raise Failure("", ExitCode.INTERRUPTED) from None


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* to its end even if this task is cancelled meanwhile; the cancellation is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    return task.result()


async def while_running(background: Awaitable[None], story: Awaitable[T]) -> T:
    """Run *story* with *background* beside it; the background ends with it, and its failure ends both."""
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_as_coroutine(background), name="background")
        try:
            return await story
        finally:
            watching.cancel()


async def _guarded(command: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(command)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _cancel_once, task)
    return await task


def _cancel_once(task: "asyncio.Future[Any]") -> None:
    # A second cancellation would interrupt the clean-up, which has its own time limits.
    if isinstance(task, asyncio.Task) and task.cancelling() == 0:
        task.cancel()


async def _as_coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable
