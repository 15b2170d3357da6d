"""Let standbys go, remove them, and know when a container that was one was let go.

A standby is a container that is ready, and whose init waits. It replaces the running container of its bot: once that
one is gone, the standby gets its state, takes the fixed name of the entity's container, and is let go. In this order:
the engine gives a name to one container only, so that no code runs beside that of another container. A standby that has
not been let go is no container of its bot.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from libs.core.aio.threads import Threads
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.containers.run_folders import RunFolders
from libs.docker_runner.containers.standby_folder import as_run
from libs.docker_runner.containers.state_cache import ContainerStateCache
from libs.docker_runner.engine.client import Engine, NameTaken
from libs.docker_runner.engine.http import EngineRefused
from libs.docker_runner.errors import DiskUnavailable
from libs.docker_runner.sandbox.container_spec import Paths

log = get_logger(__name__)

# A stuck disk delays no stop; a container of which nothing is known counts as running.
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Standby:
    """A waiting container and its files."""

    container: ManagedContainer
    paths: Paths


class Standbys:
    """The standbys on one engine, whoever made them.

    Args:
        give_back: removes the files of a start, by the scope, the name and the token of its container.
    """

    def __init__(
        self,
        engine: Engine,
        states: ContainerStateCache,
        folders: RunFolders,
        threads: Threads,
        give_back: Callable[[str, str, str], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._states = states
        self._folders = folders
        self._threads = threads
        self._give_back = give_back
        self._let_go_at: dict[str, datetime] = {}

    async def let_go(self, standby: Standby, lay_state: Callable[[Paths], Awaitable[None]]) -> ManagedContainer | None:
        """Let *standby* run its bot; return None, and remove it, when it cannot become the container of its bot.

        Args:
            lay_state: writes the state that its bot begins with.

        Raises:
            RuntimeFault: of *lay_state*, of the engine or of the disk; it is removed, if that is possible now.
        """
        container, folder = standby.container, standby.paths.standby
        assert folder is not None
        try:
            await lay_state(standby.paths)
            if self._states.is_over(container.container_id):
                raise _Gone("it has ended")
            await self._named(container)
            state = standby.paths.state
            restored = state is not None and await self._threads.run(state.restored.exists)
            try:
                await self._threads.run(lambda: folder.let_go(restored=restored))
            except OSError as error:
                raise DiskUnavailable("the word to start of a standby", error) from error
        except _Gone as error:
            log.info("standby not used", container=container.name, reason=str(error))
            await self.remove(container)
            return None
        except RuntimeFault:
            await self._removed_if_possible(container)
            raise
        now = self._let_go_at[container.container_id] = datetime.now(UTC)
        return replace(container, is_standby=False, started_at=now)

    async def remove(self, container: ManagedContainer) -> None:
        """Remove a standby and its files, whoever made it. May be repeated.

        Raises:
            EngineUnavailable: it ends by itself.
        """
        await self._engine.remove(container.container_id)
        await self._give_back(container.scope, container.name, container.token)

    async def seen(self, container: ManagedContainer) -> ManagedContainer:
        """Return *container*, which was a standby, as the run of its bot; see :func:`as_run`."""
        if container.is_standby:
            return container
        known = self._let_go_at.get(container.container_id)
        if known is None:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    known = await self._threads.run(self._folders.standby(container).let_go_at)
            except (OSError, TimeoutError):
                return container
            if known is not None:
                self._let_go_at[container.container_id] = known
        return as_run(container, known)

    def forget(self, container_id: str) -> None:
        """Drop what is known of a removed container. May be repeated."""
        self._let_go_at.pop(container_id, None)

    async def _named(self, container: ManagedContainer) -> None:
        try:
            await self._engine.rename(container.container_id, container.name)
        except NameTaken as error:
            raise _Gone("another container of the bot has its name") from error
        except EngineRefused as error:
            raise _Gone(error.message) from error

    async def _removed_if_possible(self, container: ManagedContainer) -> None:
        try:
            await self.remove(container)
        except RuntimeFault as error:
            log.warning("standby not removed; it ends by itself", container=container.name, reason=str(error))


class _Gone(Exception):
    """A standby cannot become the container of its bot."""
