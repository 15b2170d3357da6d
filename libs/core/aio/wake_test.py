import asyncio

from libs.core.aio.wake import Wake


async def test_a_set_ends_the_wait_at_once() -> None:
    wake = Wake()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(wake.wait_at_most(60))
        await asyncio.sleep(0)
        wake.set()

    assert waiting.result() is True


async def test_a_set_before_the_wait_is_not_lost() -> None:
    wake = Wake()
    wake.set()

    assert await wake.wait_at_most(60)


async def test_many_sets_wake_once() -> None:
    wake = Wake()
    wake.set()
    wake.set()

    assert await wake.wait_at_most(60)
    assert not await wake.wait_at_most(0.01)


async def test_the_wait_ends_by_itself() -> None:
    assert not await Wake().wait_at_most(0.01)


async def test_a_cancelled_wait_is_cancelled_and_keeps_the_flag() -> None:
    wake = Wake()
    waiting = asyncio.create_task(wake.wait_at_most(60))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    wake.set()

    assert waiting.cancelled()
    assert await wake.wait_at_most(60)
