"""Run another process's work at a chosen moment: before a request, or in the middle of one."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

from pymongo import InsertOne, UpdateOne

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
    """A database that runs *event* right before the *at*-th request of its user, from 1 on.

    Pass it to a store in place of its database.

    Args:
        only: the method whose requests are counted; None for all.
    """

    def __init__(
        self, database: Database, at: int, event: Callable[[], Awaitable[object]], *, only: str | None = None
    ) -> None:
        self._database = database
        self._event = event
        self._only = only
        self._left = at
        self.interrupted = False

    def __getitem__(self, name: str) -> Any:
        return _Collection(self._database[name], self)

    def get_collection(self, name: str, **options: Any) -> Any:
        """Return a wrapped collection."""
        return _Collection(self._database.get_collection(name, **options), self)

    async def request(self, name: str) -> None:
        """Count a request of the method *name*, which is about to be sent."""
        if self._only not in (None, name):
            return
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
            await self._database.request(name)
            return await method(*arguments, **options)

        return request


class _Found:
    """A cursor, whose request is sent when its first document is read."""

    def __init__(self, cursor: Any, database: InterruptedDatabase) -> None:
        self._cursor = cursor
        self._database = database

    def sort(self, *arguments: Any) -> Self:
        """As the cursor."""
        self._cursor.sort(*arguments)
        return self

    def limit(self, number: int) -> Self:
        """As the cursor."""
        self._cursor.limit(number)
        return self

    async def __aiter__(self) -> AsyncIterator[Any]:
        await self._database.request("find")
        async for document in self._cursor:
            yield document


class OvertakenUpserts:
    """A database that runs *event* in the middle of the first upsert that matches nothing.

    The server reads first and then inserts. A concurrent insert makes the insert fail, unless the filter consists of
    equality only, for which the server retries by itself.
    """

    def __init__(self, database: Database, event: Callable[[], Awaitable[object]]) -> None:
        self._database = database
        self._event = event
        self.overtaken = False

    def __getitem__(self, name: str) -> Any:
        return _Upserts(self._database[name], self)

    async def overtake(self) -> None:
        """Run the event in the middle of an upsert."""
        self.overtaken = True
        await self._event()


class _Upserts:
    def __init__(self, collection: Any, database: OvertakenUpserts) -> None:
        self._collection = collection
        self._database = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    async def replace_one(self, query: Any, document: Any, upsert: bool = False) -> Any:
        """As the collection."""
        if upsert and await self._finds_nothing(query):
            await self._database.overtake()
            return await self._collection.insert_one({**document, "_id": query["_id"]})
        return await self._collection.replace_one(query, document, upsert=upsert)

    async def bulk_write(self, updates: list[UpdateOne], ordered: bool = True) -> Any:
        """As the collection, with one update."""
        [update] = updates
        if await self._finds_nothing(update._filter):
            await self._database.overtake()
            return await self._collection.bulk_write([InsertOne({"_id": update._filter["_id"]})], ordered=ordered)
        return await self._collection.bulk_write(updates, ordered=ordered)

    async def _finds_nothing(self, query: Any) -> bool:
        return not self._database.overtaken and await self._collection.find_one(query) is None
