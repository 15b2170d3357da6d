"""One run of an executable, carried out as a service's attempt is, with its result and its output collected."""

import asyncio
import math
from collections.abc import Callable
from contextlib import aclosing

from libs.core.aio.backoff import Backoff
from libs.core.aio.wake import Wake
from libs.core.errors import Retryable, UserError
from libs.docker_runner.containers.container import EndReason, ManagedContainer, RunOutcome
from libs.docker_runner.errors import NoRoom
from libs.docker_runner.executable import Executable
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.runner import DockerRunner
from libs.docker_runner.runs.attempt import Attempt, AttemptResult, RunKit
from libs.docker_runner.runs.stop_orders import StopOrder

_POLL_SECONDS = 0.1


class SingleRun:
    """The policy of a run that is wanted to its end; what prevents it is raised."""

    def __init__(
        self,
        runner: DockerRunner,
        executable: Executable,
        timeout_seconds: float,
        on_output: Callable[[LogLine], object],
    ) -> None:
        self._runner = runner
        self._executable = executable
        self._timeout_seconds = timeout_seconds
        self._on_output = on_output
        self._attempt = Attempt(
            executable.id,
            executable.run_id,
            kit=RunKit(engine=runner, proven=lambda: True, containers=self._containers),
            policy=self,
            container_ended=self._in_the_way,
            backoff=Backoff(0.1, 1.0),
            wake=Wake(),
        )

    async def outcome(self) -> RunOutcome:
        """Run it, and return what came of it."""
        polling = asyncio.create_task(self._poll(), name="poll")
        try:
            return await self._attempt.carry_out()
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            self._attempt.changed()

    async def _containers(self) -> list[ManagedContainer]:
        return await self._runner.list(self._executable.service, self._executable.scope, self._executable.segment)

    async def _in_the_way(self, ended: object) -> None:
        pass

    def stop_order(self) -> StopOrder | None:
        """None."""
        return None

    def build(self) -> Executable:
        """The executable."""
        return self._executable

    async def ready(self, executable: Executable, refusal: NoRoom | None) -> bool | AttemptResult:
        """At once, or never."""
        if refusal is not None:
            raise AssertionError(str(refusal))
        return True

    def start_patience_seconds(self, error: Retryable) -> float:
        """Without end."""
        return math.inf

    def rejected(self, error: UserError) -> AttemptResult:
        """Raise it."""
        raise error

    async def see_through(self, container: ManagedContainer) -> AttemptResult:
        """Collect what comes of it."""
        limit, seconds = self._executable.limits.result_bytes, self._timeout_seconds
        async with self._runner.collecting(container, limit, seconds) as collection:
            reading = asyncio.create_task(self._read(container), name="read output")
            try:
                await collection.during(self._attempt.watch(container, seconds, StopOrder(EndReason.TIMEOUT)))
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            outcome = await collection.take()
            self._attempt.container = None
        return AttemptResult(outcome.ended.reason, outcome=outcome)

    async def _read(self, container: ManagedContainer) -> None:
        async with aclosing(self._runner.logs(container, follow=True)) as pieces:
            async for piece in pieces:
                self._on_output(piece)

    async def record(self, result: AttemptResult) -> RunOutcome:
        """Nothing."""
        assert result.outcome is not None
        return result.outcome
