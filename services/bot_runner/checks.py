"""Check newest versions in the background, while the running version continues and may be stopped at any time."""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Protocol

from libs.core.aio.backoff import Backoff
from libs.core.aio.wake import Wake
from libs.core.errors import Retryable, UserError
from libs.core.observability.log import bound_context, get_logger
from libs.core.process.isolation import unexpected
from libs.core.store.owner_quotas import OwnerQuotas
from libs.docker_runner.executable import Executable
from services.bot_runner.restart_memory import RestartMemory
from services.bot_runner.restarts import RestartPolicy
from services.bot_runner.verdicts import Ready, Refused, Unknown, Verdict, rejection_for

log = get_logger(__name__)

_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 60.0


class Checker(Protocol):
    """Checks versions; implemented by the docker runner."""

    async def check(self, executable: Executable) -> str:
        """Fetch and check what a start needs; return the version of the code."""


class VersionChecks:
    """The checks of one owned segment: at most one per bot, of its newest version."""

    def __init__(
        self,
        *,
        runner: Checker,
        quotas: OwnerQuotas,
        memory: RestartMemory,
        wake: Wake,
        policy: RestartPolicy | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._runner = runner
        self._quotas = quotas
        self._memory = memory
        self._wake = wake
        self._policy = policy or RestartPolicy()
        self._clock = clock
        self._under_way: dict[str, tuple[int, asyncio.Task[None]]] = {}
        self._backoffs: dict[str, Backoff] = {}

    def begin(self, executable: Executable, tasks: asyncio.TaskGroup) -> None:
        """Check *executable* in *tasks*, unless a check is running. Its verdict wakes a round."""
        revision, task = self._under_way.get(executable.id, (None, None))
        if revision == executable.revision:
            return
        if task is not None:
            task.cancel()
        begun = tasks.create_task(self._check(executable), name=f"check bot {executable.id[:40]!r}")
        self._under_way[executable.id] = (executable.revision, begun)
        begun.add_done_callback(lambda done: self._done(executable.id, done))

    def forget_all_but(self, bot_ids: Collection[str]) -> None:
        """Cancel the checks of removed bots."""
        for bot_id in self._under_way.keys() - set(bot_ids):
            self._under_way[bot_id][1].cancel()
        for bot_id in self._backoffs.keys() - set(bot_ids):
            del self._backoffs[bot_id]

    def _done(self, bot_id: str, done: "asyncio.Task[None]") -> None:
        if self._under_way.get(bot_id, (0, None))[1] is done:
            del self._under_way[bot_id]
        self._wake.set()

    async def _check(self, executable: Executable) -> None:
        with bound_context(bot=executable.id):
            verdict = await self._verdict(executable)
            self._memory.set_verdict(executable.id, executable.revision, verdict)

    async def _verdict(self, executable: Executable) -> Verdict:
        try:
            etag = await self._runner.check(executable)
            if (misfit := await self._quotas.misfit(executable)) != "":
                log.info("version does not fit into a quota", revision=executable.revision, reason=misfit)
                return self._unknown(executable, misfit)
        except UserError as error:
            log.warning("version rejected", revision=executable.revision, reason=str(error))
            again_at = self._clock() + self._policy.cap_seconds
            return Refused(rejection_for(error, executable.revision), again_at)
        except Retryable as error:
            log.warning("version cannot be checked now", revision=executable.revision, error=str(error))
            return self._unknown(executable, str(error))
        except Exception as error:  # noqa: BLE001 - of this version alone: what runs goes on
            unexpected("check bot", error, revision=executable.revision)
            return self._unknown(executable, f"internal error, {type(error).__name__}: {error}")
        self._backoffs.pop(executable.id, None)
        return Ready(etag)

    def _unknown(self, executable: Executable, detail: str) -> Unknown:
        backoff = self._backoffs.setdefault(executable.id, Backoff(_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS))
        return Unknown(detail, self._clock() + backoff.next_seconds())
