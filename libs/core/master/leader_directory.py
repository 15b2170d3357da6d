"""Where the leading master is reached, for the workers and requests that arrive at another one."""

import asyncio
import time
from collections.abc import Callable

from libs.core.errors import RuntimeFault
from libs.core.store.processes import KnownProcess, ProcessStore

_KNOWN_SECONDS = 30.0
_UNKNOWN_SECONDS = 1.0
_READ_SECONDS = 1.0


class LeaderDirectory:
    """The registered addresses of the leader.

    They are read once for each leader, however many workers ask: after a failover all of them do.

    Args:
        leader: returns the name of the master that leads, if it is another one.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self, processes: ProcessStore, leader: Callable[[], str | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._processes = processes
        self._leader = leader
        self._clock = clock
        self._reading = asyncio.Lock()
        self._name: str | None = None
        self._found: KnownProcess | None = None
        self._valid_until = 0.0

    async def find(self) -> KnownProcess | None:
        """Return the leader; None when there is no other one, or its addresses cannot be read within a second."""
        async with self._reading:
            name = self._leader()
            if name is None:
                return None
            if name != self._name or self._clock() >= self._valid_until:
                self._found = await self._read(name)
                self._name = name
                self._valid_until = self._clock() + (_UNKNOWN_SECONDS if self._found is None else _KNOWN_SECONDS)
            return self._found

    async def _read(self, name: str) -> KnownProcess | None:
        try:
            async with asyncio.timeout(_READ_SECONDS):
                return await self._processes.find("master", name)
        except (RuntimeFault, TimeoutError):
            return None
