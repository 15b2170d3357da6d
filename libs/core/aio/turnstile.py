"""Many tasks that wake at the same moment, let through a few at a time, so that nothing else waits for all of them."""

import asyncio
from collections import deque


class Turnstile:
    """Passes *at_once* tasks in each round of the event loop, in the order in which they came.

    A thousand short steps that are ready together are one long one to everything else in the process, such as the
    renewal of a lease.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._passed = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def passed(self) -> None:
        """Return when it is this task's turn; at once when few others come."""
        loop = asyncio.get_running_loop()
        if self._passed < self._at_once and not self._waiting:
            if self._passed == 0:
                loop.call_soon(self._next_round)
            self._passed += 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next_round(self) -> None:
        self._passed = 0
        while self._waiting and self._passed < self._at_once:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._passed += 1
        if self._passed:
            asyncio.get_running_loop().call_soon(self._next_round)
