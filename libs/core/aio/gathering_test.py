"""Concurrent items share few requests, and each gets its own result."""

import asyncio
from collections.abc import Sequence

import pytest

from libs.core.aio.gathering import Gathered


class Server:
    """Doubles numbers; a request takes until it is let go, if it is held."""

    def __init__(self, *faults: Exception) -> None:
        self.requests: list[list[int]] = []
        self.faults = list(faults)
        self.held: asyncio.Event | None = None
        self.asked = asyncio.Event()

    async def double(self, items: Sequence[int]) -> list[int]:
        self.requests.append(list(items))
        self.asked.set()
        if self.held is not None:
            await self.held.wait()
        await asyncio.sleep(0)
        if self.faults:
            raise self.faults.pop(0)
        return [2 * item for item in items]


async def test_concurrent_items_share_request_and_get_own_results() -> None:
    server = Server()
    gathered = Gathered(server.double, 100)

    results = await asyncio.gather(*(gathered.ask(number) for number in range(50)))

    assert results == [2 * number for number in range(50)]
    assert server.requests == [list(range(50))]


async def test_no_request_has_more_items_than_allowed() -> None:
    server = Server()
    gathered = Gathered(server.double, 20)

    results = await asyncio.gather(*(gathered.ask(number) for number in range(50)))

    assert results == [2 * number for number in range(50)]
    assert [len(request) for request in server.requests] == [20, 20, 10]


async def test_item_added_during_request_is_in_next_one() -> None:
    server = Server()
    server.held = asyncio.Event()
    gathered = Gathered(server.double, 20)
    first = asyncio.create_task(gathered.ask(1))
    await server.asked.wait()
    second = asyncio.create_task(gathered.ask(2))
    await asyncio.sleep(0)
    server.held.set()

    assert [await first, await second] == [2, 4]
    assert server.requests == [[1], [2]]


async def test_failure_is_raised_in_all_tasks_of_its_request_only() -> None:
    server = Server(ValueError("refused"))
    gathered = Gathered(server.double, 2)

    results = await asyncio.gather(*(gathered.ask(number) for number in range(4)), return_exceptions=True)

    assert [str(result) for result in results] == ["refused", "refused", "4", "6"]


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_cancelled_task_does_not_affect_results_of_others(cancelled: int) -> None:
    server = Server()
    server.held = asyncio.Event()
    gathered = Gathered(server.double, 20)
    tasks = [asyncio.create_task(gathered.ask(number)) for number in range(3)]
    await server.asked.wait()

    tasks[cancelled].cancel()
    await asyncio.sleep(0)
    server.held.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(results[cancelled], asyncio.CancelledError)
    assert [result for result in results if not isinstance(result, BaseException)] == [
        2 * number for number in range(3) if number != cancelled
    ]
