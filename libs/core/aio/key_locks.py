"""Locks by key."""

import asyncio
from weakref import WeakValueDictionary


class KeyLocks:
    """One lock for each key. Use it from the event loop's thread."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, key: str) -> asyncio.Lock:
        """Return the lock of *key*, which exists while a task holds it or waits for it."""
        return self._locks.setdefault(key, asyncio.Lock())

    def __len__(self) -> int:
        return len(self._locks)
