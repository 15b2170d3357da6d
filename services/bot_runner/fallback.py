"""Restore the previous version when the new one cannot start or ends within its health window."""

import time
from collections.abc import Callable
from dataclasses import replace

from libs.core.errors import UserError
from libs.core.observability.log import get_logger
from libs.core.store.releases import Rejection, RejectionReason, Release
from libs.docker_runner.containers.container import Ended
from libs.docker_runner.executable import Executable
from services.bot_runner.desired_bot import DesiredBot
from services.bot_runner.records import BotRecords
from services.bot_runner.restart_memory import RestartMemory
from services.bot_runner.restarts import RestartPolicy
from services.bot_runner.status import BotState, BotStatus, utc_now
from services.bot_runner.verdicts import Refused, rejection_for

log = get_logger(__name__)


class Fallback:
    """Changes the current version of a bot. The next round starts it."""

    def __init__(
        self,
        *,
        records: BotRecords,
        memory: RestartMemory,
        policy: RestartPolicy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._records = records
        self._memory = memory
        self._policy = policy
        self._clock = clock

    async def keep(self, bot_id: str, release: Release) -> None:
        """Write the accepted versions. Repeating it changes nothing.

        An accepted version starts without failures: those so far belong to the previous version.
        """
        if (entity := self._memory.entity(bot_id)) is None:
            return
        await self._records.keep(entity, release)
        before, now = Release.of(entity.document).current, release.current
        if before is not None and now is not None and before.revision != now.revision == entity.revision:
            self._memory.set_history(bot_id, self._memory.history_of(bot_id).forgiven())

    async def refused(self, executable: Executable, error: UserError) -> bool:
        """Handle an error of the start that the bot's owner must correct. Return False without a previous version."""
        bot = self._replacing(executable.id, executable.revision)
        if bot is None:
            return False
        # Its check succeeded, and may succeed again: the object was removed or replaced in between.
        rejection = rejection_for(error, executable.revision)
        verdict = Refused(rejection, self._clock() + self._policy.cap_seconds)
        self._memory.set_verdict(bot.id, executable.revision, verdict)
        await self.keep(bot.id, bot.release.reverted(None))
        return True

    async def unhealthy(self, bot_id: str, revision: int, detail: str, run_id: str = "") -> bool:
        """Handle a failure of *revision* in its health window. Return False when no rollback was requested.

        Args:
            run_id: the run that ended; "" when none started.
        """
        bot = self._replacing(bot_id, revision)
        if bot is None or bot.release.current is None or bot.release.current.window_seconds is None:
            return False
        rejection = Rejection(revision, RejectionReason.UNHEALTHY, detail)
        log.warning("version rolled back", bot=bot_id, revision=revision, reason=detail)
        await self.keep(bot_id, bot.release.reverted(rejection))
        await self._starts_again(replace(bot, release=bot.release.reverted(rejection), rejection=rejection), run_id)
        return True

    async def ended(self, ended: Ended, detail: str) -> bool:
        """Handle the end of a container by itself, as *detail* describes. Return False for an ordinary end."""
        container = ended.container
        bot = self._memory.bot(container.id)
        if bot is None or bot.absence is not None:
            return False
        if bot.release.rejection_of(container.revision) is not None and bot.release.current is not None:
            # The previous worker rolled it back, and died before this was done.
            await self._starts_again(bot, container.run_id)
            return True
        if self._replacing(bot.id, container.revision) is None:
            return False
        window_seconds = bot.release.current.window_seconds if bot.release.current is not None else None
        if window_seconds is None or (ended.duration_seconds or 0.0) >= window_seconds:
            await self.keep(bot.id, bot.release.confirmed(container.code_etag))
            return False
        return await self.unhealthy(bot.id, container.revision, detail, container.run_id)

    def _replacing(self, bot_id: str, revision: int) -> DesiredBot | None:
        """Return the bot, if the version of *revision* is current and the previous one is still stored."""
        bot = self._memory.bot(bot_id)
        if bot is None or bot.release.previous is None or bot.release.current is None:
            return None
        return bot if bot.release.current.revision == revision else None

    async def _starts_again(self, bot: DesiredBot, run_id: str) -> None:
        """Start the previous version at once, without failures."""
        history = self._memory.history_of(bot.id)
        if not run_id or run_id != history.counted_run:
            counted = run_id or history.counted_run
            history = replace(history.forgiven(), restarts=history.restarts + 1, counted_run=counted)
        self._memory.set_history(bot.id, history)
        current = bot.release.current
        status = BotStatus(
            bot.id,
            BotState.STARTING,
            utc_now(),
            detail=bot.note(current.revision) if current is not None else "",
            revision=bot.revision,
            history=history,
            rejection=bot.rejection,
        )
        await self._records.write_status(status)
