"""A cancellation is not lost to a driver that swallows it."""

import asyncio

import pytest

from libs.core.aio.cancellation import cancellation_kept


async def swallow() -> None:
    """What `asyncio.wait_for` of Python 3.11 does when both come at once."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def test_a_swallowed_cancellation_is_raised_after_all() -> None:
    async def work() -> None:
        with cancellation_kept():
            await swallow()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_goes_before_an_error_that_came_with_it() -> None:
    async def work() -> None:
        with cancellation_kept():
            await swallow()
            raise OSError("the connection broke")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_without_a_cancellation_is_left_as_it_is() -> None:
    with pytest.raises(OSError, match="broke"), cancellation_kept():
        raise OSError("the connection broke")


async def test_clean_up_after_a_cancellation_may_use_the_driver() -> None:
    async def work() -> str:
        await swallow()
        with cancellation_kept():
            await asyncio.sleep(0)
        return "cleaned up"

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "cleaned up"


def test_block_works_without_event_loop() -> None:
    passed = False
    with cancellation_kept():
        passed = True

    assert passed
