"""The operations of an engine: what services, attempts and the worker use of it. Docker is its only implementation."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from libs.docker_runner.containers.container import Ended, EndReason, ManagedContainer
from libs.docker_runner.engine.container_watch import ContainerWatch
from libs.docker_runner.engine.room_view import EngineRoom
from libs.docker_runner.executable import Executable
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.runs.collection import Collection
from libs.docker_runner.usage.stats import Stats
from libs.docker_runner.usage.totals import Usage, UsageTally


class AttemptEngine(Protocol):
    """Starts and ends the container of an attempt. Each call may be repeated.

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

    async def inspect(self, container: ManagedContainer) -> ManagedContainer | None:
        """Return the current state of *container*; None when it does not exist."""

    def collecting(
        self,
        container: ManagedContainer,
        result_bytes: int,
        timeout_seconds: float,
        is_handed_over: Callable[[], bool] = ...,
    ) -> AbstractAsyncContextManager[Collection]:
        """Collect the complete output and the result of *container* and remove it; see :class:`Collector`."""


class RunEngine(AttemptEngine, Protocol):
    """All operations that are used of a connected engine.

    Attributes:
        watch: reports the ends of containers.
        usage: the use of this worker's containers.
    """

    watch: ContainerWatch
    usage: UsageTally

    async def list(self, service: str, scope: str, segment: int | None = None) -> list[ManagedContainer]:
        """Return the containers of *service* in *scope*, running or not, of one segment or of all."""

    async def remove_standbys(self, service: str, scope: str, segment: int, before_epoch: int) -> None:
        """Remove the standbys of a segment that earlier owners made."""

    def logs(
        self, container: ManagedContainer, since: datetime | None = None, follow: bool = False, tail: int | None = None
    ) -> AsyncGenerator[LogLine, None]:
        """Yield the output from *since* on, or its last *tail* lines; with *follow* until it ends."""

    async def stats(self, container: ManagedContainer) -> Stats | None:
        """Return the resource usage of *container*; None when it does not run."""

    async def noted(self, containers: Sequence[ManagedContainer]) -> dict[str, Usage]:
        """Return the resource usage of *containers* by engine id, where it is known without a request to the engine."""
