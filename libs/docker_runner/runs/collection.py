"""Collect the complete output and the result of a container into files of the caller, and remove the container."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from libs.core.aio.threads import Threads
from libs.core.observability.log import get_logger
from libs.docker_runner.containers.container import Ended, EndReason, ManagedContainer, RunOutcome
from libs.docker_runner.containers.endings import without_result
from libs.docker_runner.containers.failure import Failure
from libs.docker_runner.containers.returned import ResultChecks, Returned
from libs.docker_runner.containers.run_folders import Outcome, RunFolders
from libs.docker_runner.containers.secret_masks import SecretMasks
from libs.docker_runner.containers.stopping import Stopper
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.errors import DockerRunnerError
from libs.docker_runner.logs.run_output import RunOutput

log = get_logger(__name__)

_OUTPUT_SECONDS = 10.0
_CLEAN_UP_SECONDS = 30.0

T = TypeVar("T")


class Collection:
    """The output and the result of one container; made by :meth:`Collector.collecting`."""

    def __init__(self, following: "asyncio.Future[None]", take: Callable[[], Awaitable[RunOutcome]]) -> None:
        self._following = following
        self._take = take

    async def during(self, watching: Awaitable[T]) -> T:
        """Await *watching*, which returns at the container's end. Errors of the collection are raised at once."""
        task = asyncio.ensure_future(watching)
        try:
            both: list[asyncio.Future[Any]] = [task, self._following]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if self._following.done():
                self._following.result()
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def take(self) -> RunOutcome:
        """Return the end of the stopped container with its result and output, and remove it."""
        return await self._take()


class Collector:
    """Collects output and results from one engine.

    Args:
        output_bytes: how much of the output is stored.
        removed: counts the resource usage of a removed container and completes its end.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        stopper: Stopper,
        folders: RunFolders,
        threads: Threads,
        masks: SecretMasks,
        output_bytes: int,
        removed: Callable[[Ended], Ended],
    ) -> None:
        self._engine = engine
        self._stopper = stopper
        self._folders = folders
        self._threads = threads
        self._masks = masks
        self._output_bytes = output_bytes
        self._removed = removed
        self._results = ResultChecks(threads)

    @asynccontextmanager
    async def collecting(
        self,
        container: ManagedContainer,
        result_bytes: int,
        timeout_seconds: float,
        is_handed_over: Callable[[], bool] = lambda: False,
    ) -> AsyncIterator[Collection]:
        """Follow the output within the block. When the block fails or is cancelled, kill and remove the container.

        A block that is cancelled while *is_handed_over* leaves it and the output to another worker of the host.
        """
        path = await self._threads.run(self._folders.output_path, container)
        masker = await self._masks.of(container)
        output = RunOutput(self._engine, container.container_id, path, self._output_bytes, masker)
        following = asyncio.create_task(output.follow(), name=f"output of {container.name}")

        async def take() -> RunOutcome:
            await output.until_silent(following, _OUTPUT_SECONDS)
            last_lines = await self._threads.run(output.last_lines)
            ended, outcome = await self._stopper.reap(container, result_bytes, last_lines, _result_path(path))
            ended = self._removed(ended)
            returned, failure = await self._result(ended, outcome, timeout_seconds, result_bytes)
            if ended.reason is EndReason.FINISHED:
                ended = replace(ended, failure=failure)
            return RunOutcome(ended, returned, failure, path, output.truncated)

        try:
            yield Collection(following, take)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and is_handed_over():
                raise
            await asyncio.shield(self._abandon(container, path))
            raise
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _result(
        self, ended: Ended, outcome: Outcome, timeout_seconds: float, result_bytes: int
    ) -> tuple[Returned | None, Failure | None]:
        """Return the result of ``main``, or why it cannot be used; neither when ``main`` returned nothing."""
        failure = without_result(ended, outcome, timeout_seconds=timeout_seconds)
        if failure is not None or outcome.kind == "none":
            await self._threads.run(outcome.discard)
            return None, failure
        found = await self._results.check(outcome.payload, result_bytes)
        return (found, None) if isinstance(found, Returned) else (None, found)

    async def _abandon(self, container: ManagedContainer, output: Path) -> None:
        """Kill and remove the container. If the engine does not respond, the container's lease ends it."""
        try:
            async with asyncio.timeout(_CLEAN_UP_SECONDS):
                await self._stopper.stop(container, 0)
                await self._stopper.reap(container)
        except (DockerRunnerError, TimeoutError) as error:
            log.warning("an abandoned run cannot be removed", container=container.name, reason=str(error))
        for left in (output, _result_path(output)):
            await self._threads.run(left.unlink, missing_ok=True)


def _result_path(output: Path) -> Path:
    """Return the path of a large result, next to the output."""
    return output.with_suffix(".result")
