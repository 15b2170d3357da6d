"""The containers of one service and deployment on this engine, by segment: list, keep alive, and stop them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from libs.docker_runner.containers.container import ContainerState, Ended, ManagedContainer
from libs.docker_runner.errors import StopFailed
from libs.docker_runner.runs.run_engine import RunEngine


class ContainerGroup:
    """One segment's containers under one ownership.

    Args:
        epoch: the ownership's fencing token. A container with a higher one belongs to a later owner and is not changed.
    """

    def __init__(
        self,
        runner: RunEngine,
        *,
        service: str,
        scope: str,
        segment: int,
        epoch: int,
    ) -> None:
        self._runner = runner
        self._service = service
        self._scope = scope
        self._segment = segment
        self._epoch = epoch

    async def list(self) -> list[ManagedContainer]:
        """Return the group's containers, running or not.

        Raises:
            EngineUnavailable: unknown.
        """
        containers = await self._runner.list(self._service, self._scope, self._segment)
        return [container for container in containers if container.epoch <= self._epoch]

    async def remove_standbys(self) -> None:
        """Remove the standbys of earlier owners, which will never be let go. May be repeated.

        Raises:
            EngineUnavailable: some may be left, and end by themselves.
        """
        await self._runner.remove_standbys(self._service, self._scope, self._segment, self._epoch)

    async def stop_all(self, grace_seconds: float) -> Sequence[Ended]:
        """Stop all containers concurrently and return how each ended. None runs when this returns.

        Raises:
            StopFailed: at least one may still run; call again.
            EngineUnavailable: unknown.
        """
        ended: Sequence[Ended] = ()
        # A start whose task was cancelled may still create a container after the first listing.
        while alive := [c for c in await self.list() if c.state is not ContainerState.EXITED]:
            results = await asyncio.gather(
                *(self._runner.stop(container, grace_seconds) for container in alive), return_exceptions=True
            )
            failures = [result for result in results if isinstance(result, BaseException)]
            ended = [*ended, *(result for result in results if isinstance(result, Ended))]
            if failures:
                raise StopFailed(f"{len(failures)} of segment {self._segment}", str(failures[0])) from failures[0]
        return ended

    async def end_each(self, grace_seconds: float, then: Callable[[Ended], Awaitable[object]]) -> None:
        """Stop all containers concurrently, and call *then* with each end as soon as it is known.

        Raises:
            StopFailed: at least one may still run, or its end was not recorded; call again.
            EngineUnavailable: unknown.
        """

        async def end(container: ManagedContainer) -> None:
            await then(await self._runner.stop(container, grace_seconds))

        results = await asyncio.gather(*(end(container) for container in await self.list()), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            raise StopFailed(f"{len(failures)} of segment {self._segment}", str(failures[0])) from failures[0]

    async def endings(self) -> Sequence[Ended]:
        """Return how each ended container ended; they stay.

        Raises:
            EngineUnavailable: unknown.
        """
        dead = [container for container in await self.list() if container.state is not ContainerState.RUNNING]
        found = await asyncio.gather(*(self._runner.exit_info(container) for container in dead))
        return [ended for ended in found if ended is not None]

    async def remove(self, ended: Sequence[Ended]) -> None:
        """Remove these containers.

        Raises:
            EngineUnavailable: some may be left; call again.
        """
        await asyncio.gather(*(self._runner.remove(end.container) for end in ended))
