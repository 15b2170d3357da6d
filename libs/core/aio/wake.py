"""A flag that wakes one loop early: set any number of times, it wakes the next wait once."""

import asyncio


class Wake:
    """Signals one waiting loop that there may be work.

    Only a hint: a loop reads the state again each round, so several calls before a wait count as one. Use it
    from the event loop's thread.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiting loop, or make the next wait return at once."""
        self._event.set()

    async def wait_at_most(self, seconds: float | None) -> bool:
        """Wait until set, *seconds* at most (None: no limit), and clear the flag. Return whether it was set."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True
