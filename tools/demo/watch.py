"""Follow the output of a stack's containers as they start and end."""

import asyncio
from collections.abc import Callable

from libs.docker_runner.containers.container import ContainerState, ManagedContainer
from tools.dev.containers import Containers

_POLL_SECONDS = 0.1


class OutputWatch:
    """Every line of every container, with its source. `run()` continues until it is cancelled."""

    def __init__(self, containers: Containers, show: Callable[[str, str], None]) -> None:
        self._containers = containers
        self._show = show
        self._seen: set[str] = set()
        self._lines: dict[str, list[str]] = {}
        self._live: dict[str, ManagedContainer] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Watch."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                found = await self._containers.all()
                self._live = {container.container_id: container for container in found}
                for container in found:
                    if container.state is not ContainerState.CREATED and container.container_id not in self._seen:
                        self._seen.add(container.container_id)
                        tasks.create_task(self._follow(container), name=f"output of {container.name}")
                self._changed.set()
                await asyncio.sleep(_POLL_SECONDS)

    def lines(self, bot_id: str) -> list[str]:
        """Return the bot's output so far, of all its containers."""
        return self._lines.setdefault(bot_id, [])

    def containers_of(self, bot_id: str) -> list[ManagedContainer]:
        """Return the bot's containers as last listed, including ended ones."""
        return [container for container in self._live.values() if container.id == bot_id]

    async def until(self, condition: Callable[[], bool], within_seconds: float) -> None:
        """Return when *condition* holds; it is checked after every change. Raises TimeoutError."""
        async with asyncio.timeout(within_seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def _follow(self, container: ManagedContainer) -> None:
        async for line in self._containers.output(container.container_id):
            self.lines(container.id).append(line)
            self._show(container.id, line)
            self._changed.set()
