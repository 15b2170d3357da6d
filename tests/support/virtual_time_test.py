import asyncio
import time

import pytest

from tests.support.virtual_time import in_virtual_time


def test_hours_pass_at_once_and_in_their_order() -> None:
    passed: list[tuple[str, float]] = []

    async def wait(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        passed.append((name, asyncio.get_running_loop().time()))

    @in_virtual_time
    async def work() -> None:
        async with asyncio.timeout(7200):
            await asyncio.gather(wait("late", 3600), wait("soon", 1))

    begun = time.monotonic()
    work()

    assert [name for name, _ in passed] == ["soon", "late"]
    assert [at for _, at in passed] == pytest.approx([1, 3600])
    assert time.monotonic() - begun < 1800


def test_endless_wait_fails() -> None:
    @in_virtual_time
    async def work() -> None:
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match="no timer"):
        work()
