"""An Executable in, a container and its outcome out."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

from libs.docker_runner.container import ContainerState, Ended, EndReason, ManagedContainer, RunOutcome
from libs.docker_runner.container_events import ContainerEvent
from libs.docker_runner.executable import Executable
from libs.docker_runner.output import LogLine
from libs.docker_runner.stats import Stats

__all__ = ["ContainerState", "DockerRunner", "EndReason", "Ended", "ManagedContainer", "RunOutcome"]

OnOutput = Callable[[LogLine], Awaitable[None] | None]


class DockerRunner:
    """Starts, watches and ends the containers of one service on one engine."""

    async def start(self, executable: Executable) -> ManagedContainer:
        raise NotImplementedError

    async def run(
        self, executable: Executable, timeout_seconds: float, on_output: OnOutput | None = None
    ) -> RunOutcome:
        raise NotImplementedError

    async def stop(self, container: ManagedContainer, grace_seconds: float = 30.0) -> Ended:
        raise NotImplementedError

    async def remove(self, container: ManagedContainer) -> Ended:
        raise NotImplementedError

    async def list(self, service: str, scope: str, segment: int | None = None) -> list[ManagedContainer]:
        raise NotImplementedError

    def events(self, service: str, scope: str) -> AsyncIterator[ContainerEvent]:
        raise NotImplementedError

    def logs(
        self, container: ManagedContainer, since: datetime | None = None, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        raise NotImplementedError

    async def stats(self, container: ManagedContainer) -> Stats:
        raise NotImplementedError

    async def clean(self, service: str, scope: str) -> None:
        raise NotImplementedError
