"""The containers of a stack on its Docker engine."""

from collections.abc import AsyncGenerator, Collection
from contextlib import suppress
from pathlib import Path

from libs.docker_runner.containers.container import Label, ManagedContainer
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.helper_container import GUARD_SERVICE
from libs.docker_runner.engine.http import EngineRefused
from libs.docker_runner.errors import EngineUnavailable


class Containers:
    """The containers with one of *scopes* on the engine at *url*. Use as an asynchronous context manager.

    Every method may raise EngineUnavailable.

    Args:
        folder: the stack's folder. Helper containers have no scope; those that mount from this folder belong to it.
    """

    def __init__(self, url: str, scopes: Collection[str], folder: Path | None = None) -> None:
        self._engine = Engine(url)
        self._scopes = tuple(scopes)
        self._folder = folder

    async def __aenter__(self) -> "Containers":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engine.close()

    async def all(self) -> list[ManagedContainer]:
        """Return all containers with one of the scopes, including ended ones."""
        return [found for scope in self._scopes for found in await self._engine.list({Label.SCOPE: scope})]

    async def mounting(self) -> set[str]:
        """Return the ids of the containers of any scope that mount something from the stack's folder.

        The host agent is one, if the stack started it; workers of other stacks on the engine start it again.
        """
        if self._folder is None:
            return set()
        managed = await self._engine.mounting(self._folder, {Label.MANAGED: "true"})
        return managed | await self._engine.mounting(self._folder, {Label.SERVICE: GUARD_SERVICE})

    async def remove_all(self) -> int:
        """Kill and remove every container; return their number."""
        ids = {container.container_id for container in await self.all()} | await self.mounting()
        for container_id in ids:
            await self._engine.remove(container_id)
        return len(ids)

    async def output(self, container_id: str) -> AsyncGenerator[str, None]:
        """Yield the lines of a container until it ends, is removed, or the engine goes away."""
        begun = b""
        # After any end of the stream there is no more output for the terminal.
        with suppress(EngineRefused, EngineUnavailable):
            async for piece in self._engine.logs(container_id, follow=True):
                *whole, begun = (begun + piece.data).split(b"\n")
                for line in whole:
                    yield line.decode(errors="replace")
        if begun:
            yield begun.decode(errors="replace")
