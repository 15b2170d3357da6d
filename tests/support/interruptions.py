"""Something else happens right before a chosen request to MongoDB: another process at the worst moment, for certain."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

from libs.core.store.client import Database

_REQUESTS = {
    "aggregate",
    "bulk_write",
    "count_documents",
    "delete_one",
    "distinct",
    "find_one",
    "find_one_and_update",
    "insert_many",
    "replace_one",
    "update_many",
    "update_one",
}


class InterruptedDatabase:
    """A database where *event* happens right before the *at*-th request of its user, from 1 on.

    Hand it to a store in place of its database.
    """

    def __init__(self, database: Database, at: int, event: Callable[[], Awaitable[object]]) -> None:
        self._database = database
        self._event = event
        self._left = at
        self.interrupted = False

    def __getitem__(self, name: str) -> Any:
        return _Collection(self._database[name], self)

    def get_collection(self, name: str, **options: Any) -> Any:
        """As the database does."""
        return _Collection(self._database.get_collection(name, **options), self)

    async def request(self) -> None:
        """A request is about to be sent."""
        self._left -= 1
        if self._left == 0:
            self.interrupted = True
            await self._event()


class _Collection:
    def __init__(self, collection: Any, database: InterruptedDatabase) -> None:
        self._collection = collection
        self._database = database

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._collection, name)
        if name == "find":
            return lambda *arguments, **options: _Found(method(*arguments, **options), self._database)
        if name not in _REQUESTS:
            return method

        async def request(*arguments: Any, **options: Any) -> Any:
            await self._database.request()
            return await method(*arguments, **options)

        return request


class _Found:
    """A cursor, whose request is sent when its first document is asked for."""

    def __init__(self, cursor: Any, database: InterruptedDatabase) -> None:
        self._cursor = cursor
        self._database = database

    def sort(self, *arguments: Any) -> Self:
        """As the cursor does."""
        self._cursor.sort(*arguments)
        return self

    def limit(self, number: int) -> Self:
        """As the cursor does."""
        self._cursor.limit(number)
        return self

    async def __aiter__(self) -> AsyncIterator[Any]:
        await self._database.request()
        async for document in self._cursor:
            yield document
