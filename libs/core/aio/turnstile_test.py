import asyncio

import pytest

from libs.core.aio.turnstile import Turnstile


async def passing(turnstile: Turnstile, number: int, passed: list[int]) -> None:
    await turnstile.passed()
    passed.append(number)


async def one_round() -> None:
    """What is ready now runs."""
    await asyncio.sleep(0)


async def test_simultaneous_tasks_pass_in_order_a_few_per_round() -> None:
    turnstile, passed = Turnstile(10), list[int]()
    seen = []
    async with asyncio.TaskGroup() as tasks:
        for number in range(35):
            tasks.create_task(passing(turnstile, number, passed))
        while len(passed) < 35:
            await one_round()
            seen.append(len(passed))

    assert passed == list(range(35))
    assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) <= 10


async def test_single_task_passes_without_waiting() -> None:
    turnstile = Turnstile(1)
    with pytest.raises(StopIteration):
        turnstile.passed().send(None)


async def test_cancelled_task_takes_no_turn() -> None:
    turnstile, passed = Turnstile(1), list[int]()
    tasks = [asyncio.create_task(passing(turnstile, number, passed)) for number in range(4)]
    await one_round()
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert passed == [0, 3]
