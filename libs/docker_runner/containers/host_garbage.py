"""Garbage-collect what dead workers left on this host: dead containers, folders, outputs, and pins of code."""

import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from libs.core.aio.threads import Threads
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.process.isolation import isolated
from libs.docker_runner.code.source import CodeSource
from libs.docker_runner.containers.container import ContainerState, Ended, Label, ManagedContainer
from libs.docker_runner.containers.names import container_name_prefix
from libs.docker_runner.containers.run_folders import RunFolders
from libs.docker_runner.containers.standbys import Standbys
from libs.docker_runner.containers.starting import holder_of
from libs.docker_runner.containers.stopping import Stopper
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.helper_container import GUARD_SERVICE
from libs.docker_runner.errors import StopFailed

log = get_logger(__name__)

# Files and pins are created before their container; after this time it will not appear any more.
_STALE_SECONDS = 600.0
# A start writes its spec just before its container is created.
_UNUSED_SPEC_SECONDS = 120.0
# Its worker may still look at it.
_STANDBY_KEPT_SECONDS = 120.0
_OUTPUT_KEPT_SECONDS = 86_400.0
# The caller of a helper waits for a minute, and then reads its output.
_HELPER_KEPT_SECONDS = 120.0


@dataclass(frozen=True)
class Cleared:
    """The ends of the removed containers, and how many dead ones are left for now."""

    ended: list[Ended]
    left: int


class HostGarbageCollector:
    """Removes unused data on this host. Running containers are not included: their lease ends them."""

    def __init__(
        self,
        *,
        engine: Engine,
        code: CodeSource,
        folders: RunFolders,
        threads: Threads,
        stopper: Stopper,
        standbys: Standbys,
    ) -> None:
        self._engine = engine
        self._code = code
        self._folders = folders
        self._threads = threads
        self._stopper = stopper
        self._standbys = standbys

    async def clear(
        self,
        containers: Collection[ManagedContainer],
        kept_segments: Collection[int],
        moved_segments: Collection[int],
        older_than_seconds: float,
        before_removal: Callable[[Ended], Awaitable[object]],
    ) -> Cleared:
        """See :meth:`DockerRunner.clear`. *containers* are all containers of the service."""
        buried: list[Ended] = []
        left = 0
        for container in containers:
            if container.segment in kept_segments or container.state is ContainerState.RUNNING:
                continue
            left += 1
            minimal_age_seconds = 0.0 if container.segment in moved_segments else older_than_seconds
            # A container that cannot be removed must not prevent the removal of others.
            with isolated("remove a dead container"):
                if await self._is_dead(container, minimal_age_seconds):
                    ended = await self._buried(container, before_removal)
                    if ended is not None:
                        buried.append(ended)
                        left -= 1
        if buried:
            log.info("dead containers removed", count=len(buried))
        return Cleared(buried, left)

    async def clean(self, service: str, scope: str) -> None:
        """See :meth:`DockerRunner.clean`."""
        with isolated("remove dead guards"):
            await self._remove_guards()
        everything = await self._engine.list({Label.MANAGED: "true"})
        with isolated("remove dead standbys"):
            await self._remove_standbys([c for c in everything if (c.service, c.scope) == (service, scope)])
        with isolated("remove folders of dead containers"):
            await self._remove_folders(service, scope, everything)
        await self._code.drop_stale_pins({holder_of(one.name, one.token) for one in everything}, _STALE_SECONDS)

    async def remove_dead_specs(self, service: str, scope: str, containers: Collection[ManagedContainer]) -> None:
        """See :meth:`DockerRunner.remove_dead_specs`. *containers* are all containers of the service."""
        found = {(one.name, one.token): one.state for one in containers}
        now = time.time()
        for name, token, made_at in await self._threads.run(self._folders.specs, scope):
            if not name.startswith(container_name_prefix(service)):
                continue
            state = found.get((name, token))
            # Without a container it may be that of a start in progress.
            is_left = state is None and now - made_at > _UNUSED_SPEC_SECONDS
            if state is ContainerState.EXITED or is_left:
                await self._threads.run(self._folders.remove_spec, scope, name, token)

    async def _buried(
        self, container: ManagedContainer, before_removal: Callable[[Ended], Awaitable[object]]
    ) -> Ended | None:
        """Record how *container* ended, remove it, and return its end; None if it runs again."""
        try:
            ended = await self._stopper.exit_info(container)
            if ended is None:
                return None
            await before_removal(ended)
            ended, _ = await self._stopper.reap(container)
        except StopFailed as error:
            # An error of this container alone, unlike an engine or a database that is unavailable.
            raise RuntimeFault(str(error)) from error
        return ended

    async def _is_dead(self, container: ManagedContainer, older_than_seconds: float) -> bool:
        if container.state is ContainerState.RUNNING:
            return False
        found = await self._engine.inspect(container.container_id)
        if found is None or found.container.state is ContainerState.RUNNING:
            return False
        since = found.container.finished_at or found.created_at
        return since is not None and time.time() - since.timestamp() > older_than_seconds

    async def _remove_standbys(self, containers: Collection[ManagedContainer]) -> None:
        """Remove standbys that have ended, and those that were never started. None has run anything of its bot."""
        for container in containers:
            if container.is_standby and await self._is_dead(container, _STANDBY_KEPT_SECONDS):
                await self._standbys.remove(container)

    async def _remove_folders(self, service: str, scope: str, everything: Collection[ManagedContainer]) -> None:
        in_use = {(one.name, one.token) for one in everything}
        now = time.time()
        for name, token, made_at in await self._threads.run(self._folders.starts, scope):
            mine = name.startswith(container_name_prefix(service))
            if mine and (name, token) not in in_use and now - made_at > _STALE_SECONDS:
                await self._threads.run(self._folders.remove, scope, name, token)
        await self._threads.run(self._folders.remove_outputs, scope, now - _OUTPUT_KEPT_SECONDS)

    async def _remove_guards(self) -> None:
        for helper in await self._engine.list({Label.SERVICE: GUARD_SERVICE}):
            if await self._is_dead(helper, _HELPER_KEPT_SECONDS):
                await self._engine.remove(helper.container_id)
