"""A bounded pool of threads for calls that block."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """Runs at most *count* calls at a time; further calls queue."""

    def __init__(self, name: str, count: int) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *call* returns. Cancelling leaves the call running: a thread cannot be cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: call(*args, **kwargs))

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Return the future of *call*, for callers that need its result even if they are cancelled meanwhile."""
        return self._executor.submit(call, *args, **kwargs)

    def close(self) -> None:
        """Accept no more calls. May be repeated."""
        self._executor.shutdown(wait=False, cancel_futures=True)
