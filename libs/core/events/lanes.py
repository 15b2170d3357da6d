"""Work in order for each key and in parallel over the keys."""

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """Items that wait, a lane for each key. A lane whose items were taken gives no more until it is done with those."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}
        self._ready: deque[str] = deque()
        self._busy: set[str] = set()

    def __bool__(self) -> bool:
        """Whether :meth:`take` would give something."""
        return bool(self._ready)

    def put(self, key: str, item: T) -> None:
        """Add *item* behind those of its key."""
        lane = self._waiting.get(key)
        if lane is not None:
            lane.append(item)
            return
        self._waiting[key] = deque([item])
        if key not in self._busy:
            self._ready.append(key)

    def take(self, at_most: int) -> dict[str, list[T]]:
        """The items of the lanes that waited longest, about *at_most* of them: each lane whole, and busy from now."""
        taken: dict[str, list[T]] = {}
        number = 0
        while self._ready and number < at_most:
            key = self._ready.popleft()
            taken[key] = list(self._waiting.pop(key))
            self._busy.add(key)
            number += len(taken[key])
        return taken

    def done(self, keys: Iterable[str]) -> None:
        """What was taken of these lanes is dealt with."""
        for key in keys:
            if key in self._busy:
                self._busy.remove(key)
                if key in self._waiting:
                    self._ready.append(key)
