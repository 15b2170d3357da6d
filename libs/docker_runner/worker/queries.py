"""Answer queries on a worker: by the query process of a running bot, or in a container of its own."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from libs.core.aio.key_locks import KeyLocks
from libs.core.config.query_settings import QuerySettings
from libs.core.errors import Retryable, RuntimeFault, UserError
from libs.core.observability.log import get_logger
from libs.core.process.isolation import isolated, repeat
from libs.core.queries.messages import Query, QueryAnswer, QueryFault, failed
from libs.docker_runner.code.definition import Deployed, ExecutableBuilder, query_service
from libs.docker_runner.containers.container import ContainerState, ManagedContainer, RunOutcome
from libs.docker_runner.containers.failure import FailureReason
from libs.docker_runner.engine.exec_channel import ExecChannel
from libs.docker_runner.engine.http import EngineRefused
from libs.docker_runner.errors import DockerRunnerError, NoRoom, NoUser
from libs.docker_runner.executable import Executable, Question
from libs.docker_runner.queries.answers import answer_of
from libs.docker_runner.queries.frames import REQUEST_BYTES
from libs.docker_runner.queries.http_exchange import AnswerFault, request
from libs.docker_runner.queries.session import (
    AnswerUnusable,
    NoStreamFree,
    QueryProcessEnded,
    RelaySession,
    SessionEnded,
)
from libs.docker_runner.runner import DockerRunner

log = get_logger(__name__)

LATE = "late start of a query"
"""The name of the tasks that remove containers that have started too late."""

_LOOK_SECONDS = 5.0
_SWEEP_SECONDS = 300.0
_AFTER_LIMIT_SECONDS = 60.0
_MOST_UNANSWERED = 3
_CLOSE_SECONDS = 5.0
# A kill must end everything within a second.
_HELD_SECONDS = 0.4
_LAST_LINES = 5
_KIB = 1024
_UNUSABLE = {
    AnswerFault.TOO_LARGE: (QueryFault.ANSWER_TOO_LARGE, "the answer of the bot is larger than {kib} KiB"),
    AnswerFault.NOT_HTTP: (QueryFault.BAD_ANSWER, "the answer of the bot is no HTTP"),
    AnswerFault.INCOMPLETE: (QueryFault.BAD_ANSWER, "the bot closed the connection before its answer was complete"),
}


class _Refused(Exception):
    def __init__(self, fault: QueryFault, message: str) -> None:
        super().__init__(message)
        self.answer = failed(fault, message)


@dataclass
class _Open:
    """The session with the query process of one bot."""

    container: ManagedContainer
    session: RelaySession
    used_at: float
    unanswered: int = 0
    """Queries in a row that were given up without an answer."""


class WorkerQueries:
    """Answers queries about the entities of owned segments. Every failure is an answer.

    Args:
        deployed: returns an entity by its id as it runs, or would run; None if there is none, or its code must not run.
        executables: returns the builder of a segment's executables.
        runs_beside: whether a running entity answers queries itself; otherwise each one has a container of its own.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        runner: DockerRunner,
        deployed: Callable[[str], Awaitable[Deployed | None]],
        settings: QuerySettings,
        *,
        service: str,
        scope: str,
        executables: Callable[[int], ExecutableBuilder],
        runs_beside: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._deployed = deployed
        self._settings = settings
        self._service = service
        self._scope = scope
        self._executables = executables
        self._runs_beside = runs_beside
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._containers = 0
        self._sessions: dict[str, _Open] = {}
        self._opening = KeyLocks()
        self._swept_at = float("-inf")
        self._late: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Close idle sessions and remove what dead workers left, until cancelled; then close all sessions."""
        try:
            await repeat("queries", self._look, _LOOK_SECONDS)
        finally:
            for entity_id in list(self._sessions):
                await self._close(entity_id)
            if self._late:
                await asyncio.wait(self._late, timeout=_CLOSE_SECONDS)

    async def answer(self, query: Query) -> QueryAnswer:
        """Return the answer to *query*."""
        limits = self._settings
        if self._open[query.entity_id] >= limits.per_bot:
            text = f"{limits.per_bot} queries of this bot are being answered (QUERIES_PER_BOT); try again later"
            return failed(QueryFault.TOO_MANY, text)
        if self._open.total() >= limits.per_worker:
            text = (
                f"{limits.per_worker} queries are being answered by this worker (QUERIES_PER_WORKER); try again later"
            )
            return failed(QueryFault.TOO_MANY, text)
        self._open[query.entity_id] += 1
        try:
            return await self._answer(query)
        except _Refused as refused:
            return refused.answer
        except NoRoom as error:
            return failed(QueryFault.NO_ROOM, f"the bot does not run, and there is no room for its query: {error}")
        except UserError as error:
            return failed(QueryFault.NO_ENTRYPOINT, str(error))
        except (Retryable, DockerRunnerError) as error:
            return failed(QueryFault.UNAVAILABLE, str(error))
        finally:
            self._open[query.entity_id] -= 1
            if not self._open[query.entity_id]:
                del self._open[query.entity_id]

    # --- beside the bot

    async def _answer(self, query: Query) -> QueryAnswer:
        if self._runs_beside:
            sent = request(query.path, query.parameters)
            # One that was open may have ended with its container, which another version has replaced.
            for _ in range(2):
                found = await self._session(query)
                if found is None:
                    break
                if len(sent) > REQUEST_BYTES:
                    text = f"path and params are larger than {REQUEST_BYTES // _KIB} KiB in the form of a URL"
                    raise _Refused(QueryFault.QUESTION_TOO_LARGE, text)
                with suppress(SessionEnded):
                    return await self._asked(found, sent)
                await self._close(query.entity_id)
            else:
                raise _Refused(QueryFault.UNAVAILABLE, "the bot ended during the query; try again later")
        return await self._asked_once(query)

    async def _asked(self, found: _Open, sent: bytes) -> QueryAnswer:
        limit = self._settings.answer_kb * _KIB
        found.used_at = self._clock()
        try:
            body = await found.session.ask(sent, limit)
            found.unanswered = 0
        except asyncio.CancelledError:
            found.unanswered += 1
            raise
        except NoStreamFree:
            raise _Refused(QueryFault.TOO_MANY, "too many queries of this bot are open; try again later") from None
        except QueryProcessEnded as error:
            said = await self._runner.masked_text(found.container, str(error))
            raise _Refused(QueryFault.CRASHED, f"the query process of the bot has ended: {said}") from error
        except AnswerUnusable as error:
            fault, text = _UNUSABLE[error.fault]
            raise _Refused(fault, text.format(kib=self._settings.answer_kb)) from error
        finally:
            found.used_at = self._clock()
        return answer_of(await self._runner.masked_answer(found.container, body), limit)

    async def _session(self, query: Query) -> _Open | None:
        """Return a session with the bot; None when it does not run."""
        async with self._opening.of(query.entity_id):
            found = self._sessions.get(query.entity_id)
            if found is not None and found.unanswered >= _MOST_UNANSWERED:
                log.info("restarting a query process that hangs", container=found.container.name)
                await self._close(query.entity_id)
            elif found is not None and not found.session.is_over:
                return found
            container = await self._running(query)
            if container is None:
                return None
            if container.query_user is None:
                text = (
                    "the version of the bot that runs has no entrypoint `query`, or was started without it (as in pods)"
                )
                raise _Refused(QueryFault.NO_ENTRYPOINT, text)
            try:
                channel: ExecChannel = await self._runner.relay(container)
            except EngineRefused as error:
                raise _Refused(QueryFault.UNAVAILABLE, f"the bot cannot answer now: {error.message}") from error
            opened = _Open(container, RelaySession(channel, container.name), self._clock())
            self._sessions[query.entity_id] = opened
            return opened

    async def _running(self, query: Query) -> ManagedContainer | None:
        containers = await self._runner.list(self._service, self._scope, query.segment_id)
        alive = (one for one in containers if one.id == query.entity_id and one.state is ContainerState.RUNNING)
        return next(alive, None)

    async def _close(self, entity_id: str) -> None:
        if (found := self._sessions.pop(entity_id, None)) is not None:
            await found.session.close()

    # --- in a container of its own

    async def _asked_once(self, query: Query) -> QueryAnswer:
        most = self._settings.containers_per_worker
        if self._containers >= most:
            text = f"{most} containers answer queries on this worker (QUERY_CONTAINERS_PER_WORKER); try again later"
            raise _Refused(QueryFault.TOO_MANY, text)
        self._containers += 1
        try:
            return await self._run(query)
        finally:
            self._containers -= 1

    async def _run(self, query: Query) -> QueryAnswer:
        entity = await self._deployed(query.entity_id)
        if entity is None:
            raise _Refused(QueryFault.UNKNOWN, f"{query.entity_id!r} was deleted or killed")
        limit = self._settings.answer_kb * _KIB
        builder = self._executables(query.segment_id)
        executable = builder.question(entity, Question(query.path, query.parameters), limit)
        try:
            container = await self._started(executable)
        except NoUser as error:
            raise _Refused(QueryFault.NO_ROOM, str(error)) from error
        # Leaving the block by an error or a cancellation ends the container.
        async with self._runner.collecting(container, limit, query.timeout_seconds) as collection:
            await collection.during(self._ended(container, query))
            outcome = await collection.take()
        try:
            return await asyncio.to_thread(_answer_in, outcome, limit)
        finally:
            await asyncio.to_thread(outcome.discard)

    async def _started(self, executable: Executable) -> ManagedContainer:
        """Return the started container. One that starts after a cancellation is removed."""
        starting = asyncio.create_task(self._runner.start(executable), name="start of a query")
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            late = asyncio.create_task(self._remove_late(starting), name=LATE)
            self._late.add(late)
            late.add_done_callback(self._late.discard)
            raise

    async def _remove_late(self, starting: "asyncio.Task[ManagedContainer]") -> None:
        with isolated("remove the container of a query", passing=()):
            try:
                container = await starting
            except RuntimeFault as error:
                log.info("a query that timed out did not start", reason=str(error))
                return
            await self._runner.remove(container)

    async def _ended(self, container: ManagedContainer, query: Query) -> None:
        """Return when the container of a question has ended; raise _Refused when it must not run any more."""
        limit = query.timeout_seconds + _AFTER_LIMIT_SECONDS
        ending = asyncio.create_task(self._runner.ended(container, limit), name="end of a query")
        try:
            while not (await asyncio.wait([ending], timeout=_HELD_SECONDS))[0]:
                with suppress(Retryable):
                    if await self._deployed(query.entity_id) is None:
                        raise _Refused(QueryFault.UNAVAILABLE, f"{query.entity_id!r} was deleted or killed meanwhile")
            await ending
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)

    # --- upkeep

    async def _look(self) -> None:
        await self._look_at_sessions()
        if self._clock() - self._swept_at > _SWEEP_SECONDS:
            await self._sweep()
            self._swept_at = self._clock()

    async def _look_at_sessions(self) -> None:
        """Close those that have ended, or were not used for a time."""
        for entity_id in list(self._sessions):
            async with self._opening.of(entity_id):
                found = self._sessions.get(entity_id)
                if found is None:
                    continue
                is_unused = found.session.is_idle and self._clock() - found.used_at > self._settings.idle_seconds
                if found.session.is_over or is_unused:
                    await self._close(entity_id)

    async def _sweep(self) -> None:
        """Remove containers that answered a question and whose worker died."""
        service = query_service(self._service)
        longest = self._settings.timeout_seconds + _AFTER_LIMIT_SECONDS
        for container in await self._runner.list(service, self._scope):
            if container.created_at is None or time.time() - container.created_at.timestamp() > longest:
                log.info("removing the container of a query", container=container.name)
                await self._runner.remove(container)
        await self._runner.clean(service, self._scope)


def _answer_in(outcome: RunOutcome, limit_bytes: int) -> QueryAnswer:
    """Return the answer of a container that has ended. Blocks."""
    if outcome.returned is not None:
        return answer_of(b"".join(outcome.returned.pieces()), limit_bytes)
    if outcome.failure is not None and outcome.failure.reason is FailureReason.RESULT_TOO_LARGE:
        return failed(QueryFault.ANSWER_TOO_LARGE, f"the answer of the bot is larger than {limit_bytes // _KIB} KiB")
    why = outcome.result_error or f"it ended with exit code {outcome.ended.exit_code} and wrote no /query/result.json"
    last = "\n".join(outcome.ended.last_lines[-_LAST_LINES:])
    return failed(QueryFault.CRASHED, f"the query failed: {why}" + (f"; its last output: {last}" if last else ""))
