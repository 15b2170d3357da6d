"""Workers that crash at a chosen write, so that a test can try each write."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Death:
    """A worker that crashes at its *at*-th write: before it is made, or after it is made and before it is answered."""

    def __init__(self, at: int = 0, *, before: bool = True) -> None:
        self.writes = 0
        self.dead = asyncio.Event()
        self.reached = False
        self._at, self._before = at, before

    def crash_at(self, writes: int) -> None:
        """Let it crash at the *writes*-th write from now on."""
        self.writes, self._at = 0, writes

    async def around(self, write: Callable[[], Awaitable[T]]) -> T:
        """Make the write, or crash."""
        if self.dead.is_set():
            await asyncio.Event().wait()
        self.writes += 1
        if self.writes != self._at:
            return await write()
        # Set before the write: after the last write the backtest is completed, and the test no longer waits for *dead*.
        self.reached = True
        if not self._before:
            await write()
        self.dead.set()
        await asyncio.Event().wait()
        raise AssertionError("the dead do not come back")


class Mortal:
    """Wrap *thing*; a worker may crash in its methods *writes*."""

    def __init__(self, thing: Any, death: Death, *writes: str) -> None:
        self._thing, self._death, self._writes = thing, death, writes

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._thing, name)
        if name not in self._writes:
            return method
        return lambda *args, **kwargs: self._death.around(lambda: method(*args, **kwargs))
