"""Doing a thing until it works."""

import asyncio

import pytest

from libs.core.aio.retrying import retry_forever
from libs.core.errors import Retryable
from tests.support.eventually import eventually


class Planned:
    """A call that raises these errors in order, and then returns its number of calls."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.faults:
            raise self.faults.pop(0)
        return self.calls


async def test_retryable_error_is_retried() -> None:
    assert await retry_forever(Planned(Retryable("away"), Retryable("away"))) == 3


async def test_a_lambda_is_tried_again_too() -> None:
    call = Planned(Retryable("away"))
    assert await retry_forever(lambda: call()) == 2


async def test_other_error_is_raised_at_once() -> None:
    call = Planned(ValueError("nonsense"))
    with pytest.raises(ValueError, match="nonsense"):
        await retry_forever(call)
    assert call.calls == 1


async def test_only_what_was_named_is_tried_again_if_something_was() -> None:
    class Slow(Retryable):
        """The only kind that is waited for."""

    call = Planned(Slow("slow"), Retryable("away"))
    with pytest.raises(Retryable, match="away"):
        await retry_forever(call, faults=Slow)
    assert call.calls == 2


async def test_cancelling_ends_it_while_it_waits() -> None:
    call = Planned(*(Retryable("away") for _ in range(100)))
    trying = asyncio.create_task(retry_forever(call))
    await eventually(lambda: call.calls)
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
