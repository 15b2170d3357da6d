"""A database whose user crashes at a chosen write, so that a test can try each write."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

_WRITES = {"insert_many", "update_one", "delete_one", "bulk_write", "find_one_and_update"}


class Crashed(Exception):
    """The process has crashed."""


class CrashingDatabase:
    """A database whose user crashes at its *at_write*-th write: before it is sent, or before the answer is read.

    Pass it to a store in place of its database.
    """

    def __init__(self, database: Any, at_write: int, after_it: bool) -> None:
        self._database = database
        self._left = at_write
        self._after_it = after_it

    def __getitem__(self, name: str) -> "_Collection":
        return _Collection(self._database[name], self)

    async def write(self, operation: Callable[[], Awaitable[Any]]) -> Any:
        """Make a write, or crash."""
        self._left -= 1
        if self._left < 0 or (self._left == 0 and not self._after_it):
            raise Crashed
        outcome = await operation()
        if self._left == 0:
            raise Crashed
        return outcome


class _Collection:
    def __init__(self, collection: Any, database: CrashingDatabase) -> None:
        self._collection = collection
        self._database = database

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._collection, name)
        if name not in _WRITES:
            return method

        async def write(*arguments: Any, **options: Any) -> Any:
            return await self._database.write(partial(method, *arguments, **options))

        return write
