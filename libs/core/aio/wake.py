"""A flag that wakes one loop early: set any number of times, it wakes the next wait once."""

import asyncio


class Wake:
    """Tells one waiting loop that there may be something to do.

    Only a hint: a loop reads the state again each round, so several sets before a wait are as good as one. To be used
    from the event loop's thread.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiting loop, or the next wait if nobody waits now."""
        self._event.set()

    async def wait_at_most(self, seconds: float | None) -> bool:
        """Wait until set, *seconds* at most (None: for ever), and clear the flag. True if it was set."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True
