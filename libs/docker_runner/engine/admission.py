"""Reserve the engine's room for each new container, so that no room is granted twice.

A container that is made counts as reserved. So the lock that the engine's workers share is needed from the look at
what there is until the container is made, and no longer: starting it comes after. What asks meanwhile in the same
process goes through together in the next round, after one look.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from libs.core.observability.log import get_logger
from libs.core.observability.tracing import outside
from libs.docker_runner.engine.lock import EngineLock
from libs.docker_runner.engine.room import RoomRequest
from libs.docker_runner.engine.room_view import EngineRoom
from libs.docker_runner.errors import EngineUnavailable, NoRoom

log = get_logger(__name__)

# Longer than the engine may take for a creation: whoever is later than that has given up.
_MADE_SECONDS = 90.0


class _Ticket:
    """One request on its way through a round."""

    def __init__(self, request: RoomRequest) -> None:
        self.request = request
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.made = asyncio.Event()

    def refuse(self, error: BaseException) -> None:
        """Answer with *error*, unless the one who asked has gone."""
        if not self.answered.done():
            self.answered.set_exception(error)

    def grant(self) -> bool:
        """Let it make its container now. False when the one who asked has gone."""
        if self.answered.done():
            return False
        self.answered.set_result(None)
        return True

    def leave(self) -> None:
        """The one who asked has made its container, or wants none any more."""
        if not self.answered.cancel() and not self.answered.cancelled():
            self.answered.exception()  # seen, also by one who was cancelled at that very moment
        self.made.set()


class Admission:
    """Admits the containers of one process to its engine."""

    def __init__(self, room: EngineRoom, lock: EngineLock) -> None:
        self._room = room
        self._lock = lock
        self._queue: list[_Ticket] = []
        self._rounds: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def admitted(self, request: RoomRequest) -> AsyncIterator[None]:
        """Within the block there is room for the container of *request*, and for no other: make it there.

        Raises:
            NoRoom: the engine has too little; nothing is reserved.
            EngineUnavailable, EngineLockUnavailable: nothing is known.
        """
        ticket = _Ticket(request)
        self._queue.append(ticket)
        if self._rounds is None or self._rounds.done():
            # Of no trace in particular, and of no task's fate.
            with outside():
                self._rounds = asyncio.create_task(self._admit(), name="admission to the engine")
        try:
            await ticket.answered
            yield
        finally:
            ticket.leave()

    async def close(self) -> None:
        """Give up what is under way. May be repeated."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.gather(self._rounds, return_exceptions=True)

    async def _admit(self) -> None:
        """Go through rounds until none asks any more."""
        while self._queue:
            try:
                await self._round()
            except asyncio.CancelledError:
                self._answer_all(EngineUnavailable("admission", "this process is shutting down"))
                raise
            except Exception as error:  # noqa: BLE001 - those who asked raise it
                self._answer_all(error)

    async def _round(self) -> None:
        async with self._lock.held() as hold:
            reservations = await self._room.refresh()
            if not await self._lock.is_mine(hold):
                return
            tickets, self._queue = self._queue, []
            granted = []
            for ticket in sorted(tickets, key=lambda ticket: ticket.request.priority):
                shortage = reservations.shortage(ticket.request)
                if shortage is not None:
                    ticket.refuse(NoRoom(ticket.request.name, shortage))
                elif ticket.grant():
                    reservations = reservations.granted(ticket.request)
                    self._room.grant(ticket.request)
                    granted.append(ticket)
            await self._until_made(granted)

    async def _until_made(self, granted: Sequence[_Ticket]) -> None:
        try:
            async with asyncio.timeout(_MADE_SECONDS):
                for ticket in granted:
                    await ticket.made.wait()
        except TimeoutError:
            log.warning("a container was not created in time", name=ticket.request.name)

    def _answer_all(self, error: BaseException) -> None:
        tickets, self._queue = self._queue, []
        for ticket in tickets:
            ticket.refuse(error)
