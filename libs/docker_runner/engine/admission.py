"""Reserve the engine's room and a user for each new container, so that neither is granted twice.

A created container counts as reserved. So the shared lock of the engine's workers is needed from reading the
reservations until the container is created, and no longer: it is started afterwards. Requests that arrive meanwhile in
the same process are granted together in the next round, after one read.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from libs.core.observability.log import get_logger
from libs.core.observability.tracing import outside
from libs.docker_runner.engine.lock import EngineLock
from libs.docker_runner.engine.room import RoomRequest
from libs.docker_runner.engine.room_view import EngineRoom
from libs.docker_runner.engine.users import UserRange
from libs.docker_runner.errors import EngineUnavailable, NoRoom, NoUser

log = get_logger(__name__)

# Longer than the engine may take for a creation: a slower caller has given up.
_MADE_SECONDS = 90.0


class _Ticket:
    """One request in a round."""

    def __init__(self, request: RoomRequest, count: int) -> None:
        self.request = request
        self.count = count
        self.answered: asyncio.Future[Sequence[int]] = asyncio.get_running_loop().create_future()
        self.made = asyncio.Event()

    def refuse(self, error: BaseException) -> None:
        """Fail the request with *error*, unless its caller has gone."""
        if not self.answered.done():
            self.answered.set_exception(error)

    def grant(self, users: Sequence[int]) -> bool:
        """Let the caller create its container now, for *users*. Return False when the caller has gone."""
        if self.answered.done():
            return False
        self.answered.set_result(users)
        return True

    def leave(self) -> None:
        """Note that the caller has created its container, or given up."""
        if not self.answered.cancel() and not self.answered.cancelled():
            self.answered.exception()  # retrieved, also for a caller that was just cancelled
        self.made.set()


class Admission:
    """Admits the containers of one process to its engine."""

    def __init__(self, room: EngineRoom, lock: EngineLock, users: UserRange) -> None:
        self._room = room
        self._users = users
        self._lock = lock
        self._queue: list[_Ticket] = []
        self._rounds: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def admitted(self, request: RoomRequest, count: int = 1) -> AsyncIterator[Sequence[int]]:
        """Reserve room for the container of *request* during the block: create it there, for *count* users.

        Raises:
            NoRoom: the engine has too little room; nothing is reserved.
            NoUser: too few users are free; nothing is reserved.
            EngineUnavailable, EngineLockUnavailable: the room is unknown.
        """
        ticket = _Ticket(request, count)
        self._queue.append(ticket)
        if self._rounds is None or self._rounds.done():
            # Outside of the current trace and independent of the current task.
            with outside():
                self._rounds = asyncio.create_task(self._admit(), name="admission to the engine")
        try:
            yield await ticket.answered
        finally:
            ticket.leave()

    async def close(self) -> None:
        """Cancel pending requests. May be repeated."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.gather(self._rounds, return_exceptions=True)

    async def _admit(self) -> None:
        """Run rounds until there are no more requests."""
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
                users = self._chosen(ticket, reservations.users)
                if shortage is not None:
                    ticket.refuse(NoRoom(ticket.request.name, shortage))
                elif not users:
                    ticket.refuse(NoUser(ticket.request.name, str(self._users)))
                elif ticket.grant(users):
                    for user in users:
                        reservations = reservations.granted(ticket.request, user)
                    self._room.grant(ticket.request)
                    granted.append(ticket)
            await self._until_made(granted)

    def _chosen(self, ticket: _Ticket, taken: frozenset[int]) -> Sequence[int]:
        """Return the users for a container; empty when there are too few."""
        users: list[int] = []
        for _ in range(ticket.count):
            user = self._users.choose(ticket.request.name, taken | set(users))
            if user is None:
                return ()
            users.append(user)
        return users

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
