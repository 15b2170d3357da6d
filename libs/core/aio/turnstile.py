"""Let tasks that wake at the same moment through in small groups, so that other tasks run in between."""

import asyncio
from collections import deque


class Turnstile:
    """Lets *at_once* tasks through in each round of the event loop, in order of arrival.

    A thousand short steps that are ready together block the rest of the process, such as the renewal of a lease, like
    one long step.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._passed = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def passed(self) -> None:
        """Return when it is this task's turn; immediately when few tasks arrive."""
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
