"""A bounded pool of threads for calls that block."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """At most *count* calls at a time; more wait."""

    def __init__(self, name: str, count: int) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What *call* returns. Cancelling leaves the call running: a thread cannot be cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: call(*args, **kwargs))

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """What *call* will return; for callers that must know of it even if they are cancelled meanwhile."""
        return self._executor.submit(call, *args, **kwargs)

    def close(self) -> None:
        """Take no more calls. May be repeated."""
        self._executor.shutdown(wait=False, cancel_futures=True)
