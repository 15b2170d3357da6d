"""The end of a container: ask, force, make sure; and then find out why it ended, and take away what it leaves."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from libs.core.aio.threads import Threads
from libs.core.observability.log import get_logger
from libs.docker_runner.code.source import CodeSource
from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, ManagedContainer
from libs.docker_runner.containers.endings import end_reason, failure_of
from libs.docker_runner.containers.keepalive import has_expired
from libs.docker_runner.containers.returned import NO_PAYLOAD
from libs.docker_runner.containers.run_folders import Outcome, RunFolders
from libs.docker_runner.containers.secret_masks import SecretMasks
from libs.docker_runner.containers.standbys import Standbys
from libs.docker_runner.containers.starting import holder_of
from libs.docker_runner.containers.state_cache import ContainerStateCache
from libs.docker_runner.engine.answers import Inspected
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.http import EngineRefused
from libs.docker_runner.errors import EngineUnavailable, StopFailed
from libs.docker_runner.logs.followed_output import FollowedOutput
from libs.docker_runner.logs.masking import Masker, masked_pieces
from libs.docker_runner.logs.output import LAST_LINES, LastLines
from libs.docker_runner.state.keeper import StateKeeper

log = get_logger(__name__)

_DEATH_SECONDS = 10.0
_MARK_SECONDS = 0.5
# A container is said to run before its first process listens, and what is sent to that one until then is lost.
_DEAF_SECONDS = 0.5
# Read when only the head of the outcome is needed.
_NO_PAYLOAD = 0


class Stopper:
    """Stops containers on one engine; see :meth:`DockerRunner.stop` and ``remove``."""

    def __init__(
        self,
        *,
        engine: Engine,
        states: ContainerStateCache,
        followed: FollowedOutput,
        code: CodeSource,
        folders: RunFolders,
        threads: Threads,
        masks: SecretMasks,
        standbys: Standbys,
        state_keeper: StateKeeper | None,
    ) -> None:
        self._engine = engine
        self._states = states
        self._followed = followed
        self._code = code
        self._folders = folders
        self._threads = threads
        self._masks = masks
        self._standbys = standbys
        self._state_keeper = state_keeper
        self._marks: dict[str, EndReason] = {}

    async def stop(
        self, container: ManagedContainer, grace_seconds: float, reason: EndReason = EndReason.STOPPED
    ) -> Ended:
        """Stop *container*, recording *reason* unless it ended by itself before."""
        found = await self.inspect(container)
        if found is not None and found.container.state is ContainerState.RUNNING:
            found = await self._end(found, grace_seconds, reason)
        return await self._exit_info(container, found)

    async def exit_info(self, container: ManagedContainer) -> Ended | None:
        """See :meth:`DockerRunner.exit_info`."""
        found = await self.inspect(container)
        if found is not None and found.container.state is ContainerState.RUNNING:
            return None
        return await self._exit_info(container, found)

    async def reap(
        self,
        container: ManagedContainer,
        payload_bytes: int = _NO_PAYLOAD,
        last_lines: Sequence[str] | None = None,
        payload_path: Path | None = None,
    ) -> tuple[Ended, Outcome]:
        """Remove *container* and its files; return why it ended, with up to *payload_bytes* of its result.

        Args:
            last_lines: of its output, if known; else the engine is asked.
            payload_path: the path for the file of a large result, which the caller owns.

        Raises:
            StateUnsaved: its last state can neither be saved nor kept on this host now; it stays.
        """
        found = await self.inspect(container)
        if found is not None and found.container.state is ContainerState.RUNNING:
            found = await self._end(found, 0, EndReason.STOPPED)
        if self._state_keeper is not None:
            await self._state_keeper.keep(container)
        ended, outcome = await self._ended(container, found, payload_bytes, last_lines)
        if payload_path is not None:
            outcome = await self._threads.run(self._folders.keep_payload, outcome, payload_path)
            masker = await self._masks.of(container)
            if masker is not None:
                outcome = await self._threads.run(_with_masked_file, outcome, masker)
        if found is not None:
            await self._engine.remove(container.container_id)
        self._states.forget(container.container_id)
        if container.was_standby:
            self._standbys.forget(container.container_id)
        self._followed.forget(container.container_id)
        self._marks.pop(container.container_id, None)
        self._masks.forget(container)
        if self._state_keeper is not None:
            self._state_keeper.forget(container)
        await self._threads.run(self._folders.remove, container.scope, container.name, container.token)
        await self._code.release(holder_of(container.name, container.token))
        return ended, outcome

    async def inspect(self, container: ManagedContainer) -> Inspected | None:
        """Return *container*'s current state; None when it is gone. Immediate if its death was reported."""
        ended = self._states.ended(container)
        found = Inspected(ended) if ended is not None else await self._engine.inspect(container.container_id)
        if found is not None and found.container.was_standby:
            return replace(found, container=await self._standbys.seen(found.container))
        return found

    async def _exit_info(self, container: ManagedContainer, found: Inspected | None) -> Ended:
        """Return how *container*, which does not run, ended; *found* is the engine's answer about it."""
        if found is not None and found.container.state is ContainerState.CREATED:
            if found.container.was_standby:
                # Its worker died before it let it go: no failure of the bot.
                await self._mark(container, EndReason.STOPPED)
            # Remove it so that a concurrent start fails.
            await self._engine.remove(container.container_id)
            found = replace(found, container=replace(found.container, state=ContainerState.EXITED))
        ended, _ = await self._ended(container, found, _NO_PAYLOAD)
        return ended

    async def _end(self, found: Inspected, grace_seconds: float, reason: EndReason) -> Inspected | None:
        """Return the dead container; None when it is gone.

        Raises:
            StopFailed: it still lives.
        """
        container = found.container
        await self._mark(container, reason)
        if grace_seconds >= 1:
            deaf_seconds = _deaf_seconds(container)
            await asyncio.sleep(deaf_seconds)
            grace_seconds = max(1.0, grace_seconds - deaf_seconds)
        # The engine answers when the container is completely cleaned up, and reports its death before that.
        asking = asyncio.create_task(self._ask(container, grace_seconds), name=f"stop {container.name}")
        dying = asyncio.create_task(self._states.until_over(container.container_id), name=f"end of {container.name}")
        try:
            await asyncio.wait({asking, dying}, return_when=asyncio.FIRST_COMPLETED)
            if not dying.done():
                asking.result()
            return await self._verified(container)
        finally:
            for task in (asking, dying):
                task.cancel()
            await asyncio.gather(asking, dying, return_exceptions=True)

    async def _mark(self, container: ManagedContainer, reason: EndReason) -> None:
        """Record the reason on disk, for the next worker; a full or stuck disk delays no stop."""
        try:
            async with asyncio.timeout(_MARK_SECONDS):
                await self._threads.run(self._folders.mark_stopped, container, reason)
        except (OSError, TimeoutError) as error:
            log.warning("why a container is stopped is not on disk", container=container.name, reason=str(error))
            self._marks.setdefault(container.container_id, reason)

    async def _ask(self, container: ManagedContainer, grace_seconds: float) -> None:
        try:
            if grace_seconds >= 1:
                await self._engine.stop(container.container_id, math.ceil(grace_seconds))
            else:
                await self._engine.kill(container.container_id)
        except EngineRefused as error:
            raise StopFailed(container.name, error.message) from error

    async def _verified(self, container: ManagedContainer) -> Inspected | None:
        """Return the dead container; None when it is gone.

        Raises:
            StopFailed: it still lives.
        """
        for attempt in range(2):
            found = await self.inspect(container)
            if found is None or found.container.state is not ContainerState.RUNNING:
                return found
            if attempt == 0:
                await self._ask(container, 0)
                try:
                    await self._engine.wait(container.container_id, _DEATH_SECONDS)
                except EngineUnavailable as error:
                    raise StopFailed(container.name, "it survived SIGKILL so far") from error
        raise StopFailed(container.name, "it survived SIGKILL")

    async def _ended(
        self,
        container: ManagedContainer,
        found: Inspected | None,
        payload_bytes: int,
        last_lines: Sequence[str] | None = None,
    ) -> tuple[Ended, Outcome]:
        stopped = await self._threads.run(self._folders.stop_reason, container)
        stopped = stopped or self._marks.get(container.container_id)
        if found is None:
            gone = Ended(container, None, False, stopped or EndReason.MISSING, container.started_at, None)
            return gone, Outcome()
        outcome = await self._threads.run(self._folders.read_outcome, container, payload_bytes)
        masker = await self._masks.of(container)
        if masker is not None:
            outcome = _with_masked_text(outcome, masker)
        seen = found.container
        expired = bool(seen.keepalive) and await self._threads.run(has_expired, Path(seen.keepalive))
        reason = end_reason(seen, outcome, stopped, has_expired=expired)
        ended = Ended(
            container=seen,
            exit_code=seen.exit_code,
            oom_killed=seen.oom_killed or reason is EndReason.OOM,
            reason=reason,
            started_at=seen.started_at,
            finished_at=seen.finished_at,
            peak_memory_bytes=outcome.peak_memory_bytes,
            cpu_seconds=outcome.cpu_seconds,
            last_lines=list(last_lines) if last_lines is not None else await self._last_lines(container),
            error=found.error,
            failure=failure_of(reason, seen.exit_code, found.error, outcome),
            message=outcome.report.message if outcome.report is not None and reason is EndReason.FINISHED else "",
        )
        return ended, outcome

    async def _last_lines(self, container: ManagedContainer) -> list[str]:
        try:
            async with asyncio.timeout(_DEATH_SECONDS):
                known = await self._followed.last_lines(container.container_id)
                if known is not None:
                    return known
                found = LastLines()
                pieces = self._engine.logs(container.container_id, tail=LAST_LINES)
                async for piece in masked_pieces(pieces, await self._masks.of(container)):
                    found.add(piece.data)
        except (EngineUnavailable, EngineRefused, TimeoutError) as error:
            log.warning("the last lines cannot be read", container=container.name, reason=str(error))
            return []
        return found.lines()


def _with_masked_text(outcome: Outcome, masker: Masker) -> Outcome:
    failure = outcome.failure
    if failure is not None:
        failure = replace(
            failure,
            message=masker.masked_text(failure.message),
            type=masker.masked_text(failure.type),
            hint=masker.masked_text(failure.hint),
        )
    payload = replace(outcome.payload, text=masker.masked_json(outcome.payload.text))
    report = outcome.report
    if report is not None:
        report = replace(report, message=masker.masked_text(report.message))
    return replace(outcome, payload=payload, failure=failure, report=report)


def _with_masked_file(outcome: Outcome, masker: Masker) -> Outcome:
    """Mask the file of a large result. Without masking it must not be shown."""
    if outcome.payload.path is None:
        return outcome
    try:
        masker.mask_file(outcome.payload.path, outcome.payload.begin)
    except OSError as error:
        log.warning("a result is dropped: its secrets cannot be masked", reason=str(error))
        outcome.discard()
        return replace(outcome, reason="", payload=NO_PAYLOAD)
    return outcome


def _deaf_seconds(container: ManagedContainer) -> float:
    """Return how long *container* may still lose a signal; by the engine's clock, which may differ."""
    if container.started_at is None:
        return 0.0
    age_seconds = (datetime.now(UTC) - container.started_at).total_seconds()
    return min(_DEAF_SECONDS, max(0.0, _DEAF_SECONDS - age_seconds))
