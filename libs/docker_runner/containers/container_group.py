"""The containers of one service and deployment on this engine, by segment: list them, keep them alive, end them all."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from libs.docker_runner.containers.container import ContainerState, Ended, ManagedContainer
from libs.docker_runner.containers.keepalive import KeepaliveFile
from libs.docker_runner.errors import StopFailed
from libs.docker_runner.runs.run_engine import RunEngine


class ContainerGroup:
    """One segment's containers under one ownership.

    Args:
        epoch: the ownership's fencing number. A container with a higher one is a later owner's and is left alone.
        keepalive: the dead-man's switch that all of them watch.
    """

    def __init__(
        self,
        runner: RunEngine,
        keepalive: KeepaliveFile,
        *,
        service: str,
        scope: str,
        segment: int,
        epoch: int,
    ) -> None:
        self._runner = runner
        self._keepalive = keepalive
        self._service = service
        self._scope = scope
        self._segment = segment
        self._epoch = epoch

    @property
    def keepalive_folder(self) -> Path:
        """To be mounted into each container of the group."""
        return self._keepalive.folder

    async def list(self) -> list[ManagedContainer]:
        """The group's containers, running or not.

        Raises:
            EngineUnavailable: nothing is known.
        """
        containers = await self._runner.list(self._service, self._scope, self._segment)
        return [container for container in containers if container.epoch <= self._epoch]

    async def stop_all(self, grace_seconds: float) -> Sequence[Ended]:
        """End every container at once and return how each ended. None runs when this returns.

        Raises:
            StopFailed: at least one may still run; call again.
            EngineUnavailable: nothing is known.
        """
        ended: Sequence[Ended] = ()
        # A start that was under way when its task was cancelled may still put a container there after the first look.
        while alive := [c for c in await self.list() if c.state is not ContainerState.EXITED]:
            results = await asyncio.gather(
                *(self._runner.stop(container, grace_seconds) for container in alive), return_exceptions=True
            )
            failures = [result for result in results if isinstance(result, BaseException)]
            ended = [*ended, *(result for result in results if isinstance(result, Ended))]
            if failures:
                raise StopFailed(f"{len(failures)} of segment {self._segment}", str(failures[0])) from failures[0]
        return ended

    async def endings(self) -> Sequence[Ended]:
        """How each container that has ended did; they stay.

        Raises:
            EngineUnavailable: nothing is known.
        """
        dead = [container for container in await self.list() if container.state is not ContainerState.RUNNING]
        found = await asyncio.gather(*(self._runner.exit_info(container) for container in dead))
        return [ended for ended in found if ended is not None]

    async def remove(self, ended: Sequence[Ended]) -> None:
        """Take away these containers.

        Raises:
            EngineUnavailable: some may be left; call again.
        """
        await asyncio.gather(*(self._runner.remove(end.container) for end in ended))
