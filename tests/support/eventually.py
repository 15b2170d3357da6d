"""Wait for a condition instead of a duration."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast, overload

T = TypeVar("T")


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]], within_seconds: float = 60.0, every_seconds: float = 0.05
) -> T: ...


@overload
async def eventually(condition: Callable[[], T], within_seconds: float = 60.0, every_seconds: float = 0.05) -> T: ...


async def eventually(
    condition: Callable[[], T | Awaitable[T]], within_seconds: float = 60.0, every_seconds: float = 0.05
) -> T:
    """Call *condition* until its result is true, and return that. It may be asynchronous and may raise meanwhile.

    Raises:
        AssertionError: it was not true within *within_seconds*; the message has its last value or exception.
    """
    deadline = time.monotonic() + within_seconds
    while True:
        error: Exception | None = None
        value: object = None
        try:
            value = condition()
            if inspect.isawaitable(value):
                value = await asyncio.wait_for(value, max(1.0, deadline - time.monotonic()))
        except Exception as raised:  # noqa: BLE001 - a condition may fail until it holds; the last failure is told
            error = raised
        if error is None and value:
            return cast(T, value)
        if time.monotonic() >= deadline:
            outcome = f"raised {error!r}" if error is not None else f"was {value!r}"
            raise AssertionError(f"not true within {within_seconds:g} s: {_name(condition)} last {outcome}") from error
        await asyncio.sleep(every_seconds)


def _name(condition: Callable[..., object]) -> str:
    code = getattr(condition, "__code__", None)
    name = getattr(condition, "__qualname__", repr(condition))
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code is not None else name
