"""The operations of an engine that services and attempts use. Docker is one implementation of it."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from libs.docker_runner.containers.container import Ended, EndReason, ManagedContainer
from libs.docker_runner.engine.room_view import EngineRoom
from libs.docker_runner.executable import Executable
from libs.docker_runner.runs.collection import Collection


class RunEngine(Protocol):
    """Starts, watches and ends containers. Each call may be repeated.

    A call that raises EngineUnavailable may have been carried out, or may be carried out later.

    Attributes:
        room: what all containers on the engine leave free.
    """

    room: EngineRoom

    async def start(self, executable: Executable) -> ManagedContainer:
        """Start *executable*, or return the running container that is equal to it; see :meth:`DockerRunner.start`."""

    async def stop(
        self, container: ManagedContainer, grace_seconds: float = 30.0, reason: EndReason = EndReason.STOPPED
    ) -> Ended:
        """End *container*, at once when *grace_seconds* is below 1; return when it is dead. It stays."""

    async def exit_info(self, container: ManagedContainer) -> Ended | None:
        """Return how *container* ended; None while it runs."""

    async def remove(self, container: ManagedContainer) -> Ended:
        """Remove *container* with its files and return how it ended. One that runs is killed."""

    async def look(self, container: ManagedContainer) -> ManagedContainer | None:
        """Return *container* as it is now; None when it is gone."""

    def collecting(
        self, container: ManagedContainer, result_bytes: int, timeout_seconds: float
    ) -> AbstractAsyncContextManager[Collection]:
        """Collect the whole output and the result of *container*, which is removed; see :class:`Collector`."""
