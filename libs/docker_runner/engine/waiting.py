"""The entities of one segment that wait for room, with their needs and waiting times."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from libs.core.aio.wake import Wake
from libs.core.room import Need
from libs.docker_runner.engine.room import RoomRequest, Shortage
from libs.docker_runner.engine.room_view import EngineRoom

# The free room changes with each start of others; the shown text is updated at this rate.
REWRITE_SECONDS = 5.0


def waiting_detail(shortage: Shortage) -> str:
    """Return a sentence for the entity's owner about why it does not run yet."""
    return f"waiting: {shortage}"


@dataclass
class Wait:
    """The wait of one entity; *detail* is the text for its document, *written* the stored one."""

    request: RoomRequest
    since: datetime
    detail: str
    written_at: float
    written: str = ""

    def follow(self, shortage: Shortage, now: float) -> None:
        """Update *detail*, unless it was updated recently."""
        if now - self.written_at >= REWRITE_SECONDS:
            self.detail, self.written_at = waiting_detail(shortage), now


class WaitingForRoom:
    """The waits of one owned segment. *wake* is set whenever the engine has more room.

    Args:
        clock: in seconds; only differences count.
    """

    def __init__(self, room: EngineRoom, wake: Wake, clock: Callable[[], float] = time.monotonic) -> None:
        self._room = room
        self._wake = wake
        self._clock = clock
        self._waits: dict[str, Wait] = {}

    def __bool__(self) -> bool:
        return bool(self._waits)

    def __iter__(self) -> Iterator[tuple[str, Wait]]:
        return iter(self._waits.items())

    def become(self, shortages: Mapping[str, tuple[RoomRequest, Shortage]]) -> None:
        """Set the waiting entities, by their ids, and drop all others."""
        for gone in self._waits.keys() - shortages.keys():
            self._room.leave(self._waits.pop(gone).request.name)
        now = self._clock()
        for entity_id, (request, shortage) in shortages.items():
            wait = self._waits.get(entity_id)
            if wait is None or wait.request != request:
                wait = self._waits[entity_id] = Wait(request, datetime.now(UTC), waiting_detail(shortage), now)
            wait.follow(shortage, now)
            self._room.wait(request, self._wake)

    def needs(self) -> list[Need]:
        """The need of each of them."""
        return [wait.request.need for wait in self._waits.values()]
