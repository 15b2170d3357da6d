"""Combine what many tasks request at the same moment into one request."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False)
class _Wish(Generic[T, R]):
    """One task's item; *woken* when its outcome is there, or when the task must make the next request."""

    item: T
    woken: asyncio.Future[None]
    results: list[R] = field(default_factory=list)
    error: Exception | None = None

    @property
    def over(self) -> bool:
        return bool(self.results) or self.error is not None

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


class Gathered(Generic[T, R]):
    """Makes one request at a time for all waiting tasks; each gets the result of its own item.

    One of the waiting tasks makes the request for all, so nothing keeps running after the last task has gone.

    Args:
        carry_out: processes some items in the given order. Repeating it with an item must change nothing, since the
            items of a request whose task is cancelled are carried out again.
        most: maximum number of items in one request.
    """

    def __init__(self, carry_out: Callable[[Sequence[T]], Awaitable[Sequence[R]]], most: int) -> None:
        self._carry_out = carry_out
        self._most = most
        self._waiting: dict[_Wish[T, R], None] = {}
        self._under_way = False

    async def ask(self, item: T) -> R:
        """Return the result for *item*. An error of a request is raised in all tasks of that request."""
        loop = asyncio.get_running_loop()
        mine: _Wish[T, R] = _Wish(item, loop.create_future())
        self._waiting[mine] = None
        try:
            while not mine.over:
                if self._under_way:
                    await mine.woken
                    mine.woken = loop.create_future()
                else:
                    await self._make_requests_until_over(mine)
        finally:
            self._waiting.pop(mine, None)
            self._have_another_go_on()
        if mine.error is not None:
            raise mine.error
        return mine.results[0]

    async def _make_requests_until_over(self, mine: _Wish[T, R]) -> None:
        self._under_way = True
        try:
            # Tasks that are ready now have added their items when this returns.
            await asyncio.sleep(0)
            while not mine.over:
                await self._make_request(list(self._waiting)[: self._most])
        finally:
            self._under_way = False

    async def _make_request(self, wishes: Sequence[_Wish[T, R]]) -> None:
        try:
            results = await self._carry_out([wish.item for wish in wishes])
            for wish, result in zip(wishes, results, strict=True):
                wish.results.append(result)
        except Exception as error:  # noqa: BLE001 - raised to all who asked
            for wish in wishes:
                wish.error = error
        for wish in wishes:
            self._waiting.pop(wish, None)
            wish.wake()

    def _have_another_go_on(self) -> None:
        if not self._under_way and (following := next(iter(self._waiting), None)) is not None:
            following.wake()
