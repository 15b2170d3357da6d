"""Process work in order for each key, and keys in parallel."""

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """Queues of items, one lane for each key. A lane is busy until its taken items are done."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}
        self._ready: deque[str] = deque()
        self._busy: set[str] = set()

    def __bool__(self) -> bool:
        """Whether :meth:`take` would return items."""
        return bool(self._ready)

    def put(self, key: str, item: T) -> None:
        """Add *item* to the end of its key's lane."""
        lane = self._waiting.get(key)
        if lane is not None:
            lane.append(item)
            return
        self._waiting[key] = deque([item])
        if key not in self._busy:
            self._ready.append(key)

    def take(self, at_most: int) -> dict[str, list[T]]:
        """Return the items of the longest-waiting lanes, about *at_most*: each lane completely, and busy afterwards."""
        taken: dict[str, list[T]] = {}
        number = 0
        while self._ready and number < at_most:
            key = self._ready.popleft()
            taken[key] = list(self._waiting.pop(key))
            self._busy.add(key)
            number += len(taken[key])
        return taken

    def done(self, keys: Iterable[str]) -> None:
        """Mark the taken items of these lanes as done."""
        for key in keys:
            if key in self._busy:
                self._busy.remove(key)
                if key in self._waiting:
                    self._ready.append(key)
