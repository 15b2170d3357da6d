"""Notifications about the bots of one owned segment: crashes, backoff, recovery and holds."""

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta

from libs.core.store.entities import Entity
from libs.docker_runner.containers.container import Ended, ManagedContainer
from libs.notifications.event import Event, Notice, NoticeQueue
from services.bot_runner.restarts import RestartHistory

RECOVERED_SECONDS = 60.0
"""How long a bot runs after failures before it counts as recovered."""
BACKING_OFF_FAILURES = 3
"""The number of consecutive failures after which the backoff of a bot is reported."""

# A later owner of a segment does not know what was reported before.
_REPORTED_WITHIN_SECONDS = 3600.0


class BotNotices:
    """Queues notices of what happens to the bots. Every call may be repeated: a repetition is recognised.

    Args:
        clock: MongoDB's time, as in the starts of containers and in the holds.
    """

    def __init__(self, notifier: NoticeQueue, clock: Callable[[], float]) -> None:
        self._notifier = notifier
        self._clock = clock
        self._recovered: dict[str, str] = {}
        self._held: dict[str, datetime] = {}

    async def crashed(self, entity: Entity | None, ended: Ended, detail: str) -> None:
        """Report that a bot ended by itself, before its container is removed.

        Raises:
            Retryable: repeat it.
        """
        if entity is None:
            return
        at = ended.finished_at or datetime.now(UTC)
        facts = {
            "reason": str(ended.reason),
            "detail": detail,
            "exit_code": ended.exit_code,
            "ran_seconds": ended.duration_seconds,
            "last_lines": list(ended.last_lines),
            "revision": ended.container.revision,
            "run_id": ended.container.run_id,
        }
        await self._put(entity, Event.CRASHED, ended.container.run_id, at, facts)

    async def backing_off(self, entity: Entity | None, run_id: str, history: RestartHistory, detail: str) -> None:
        """Report that a bot has failed several times, and when it starts again; once for each series of failures.

        Raises:
            Retryable: repeat it.
        """
        if entity is None or history.failures != BACKING_OFF_FAILURES:
            return
        facts = {
            "detail": detail,
            "failures": history.failures,
            "next_restart": datetime.fromtimestamp(history.not_before, UTC),
        }
        await self._put(entity, Event.BACKING_OFF, run_id, datetime.now(UTC), facts)

    async def runs(self, entity: Entity | None, container: ManagedContainer, history: RestartHistory) -> None:
        """Report that a bot has recovered: it runs for a minute after failures.

        Raises:
            Retryable: repeat it.
        """
        if entity is None or container.started_at is None or not history.failures:
            return
        seconds = self._clock() - container.started_at.timestamp()
        is_due = RECOVERED_SECONDS <= seconds < _REPORTED_WITHIN_SECONDS
        if is_due and self._recovered.get(entity.id) != container.run_id:
            facts = {"failures": history.failures, "ran_seconds": round(seconds, 1), "revision": container.revision}
            await self._put(entity, Event.RECOVERED, container.run_id, datetime.now(UTC), facts)
            self._recovered[entity.id] = container.run_id

    async def held(self, entity: Entity | None) -> None:
        """Report that a bot without a container is held, by whom and why.

        Raises:
            Retryable: repeat it.
        """
        if entity is None or (hold := entity.held) is None or self._held.get(entity.id) == hold.since:
            return
        now = datetime.fromtimestamp(self._clock(), UTC)
        if now - hold.since < timedelta(seconds=_REPORTED_WITHIN_SECONDS):
            facts = {"state": hold.state, "by": hold.by, "reason": hold.reason, "target": str(hold.target)}
            await self._put(entity, Event.HELD, f"{hold.state} {hold.since.isoformat()}", hold.since, facts)
        self._held[entity.id] = hold.since

    def forget_all_but(self, bot_ids: Collection[str]) -> None:
        """Drop the state of removed bots."""
        for gone in self._recovered.keys() - set(bot_ids):
            del self._recovered[gone]
        for gone in self._held.keys() - set(bot_ids):
            del self._held[gone]

    async def _put(self, entity: Entity, event: Event, key: str, at: datetime, facts: Mapping[str, object]) -> None:
        version = {"version": entity.version} if entity.version else {}
        await self._notifier.put(Notice(event, entity, key, at, {**version, **facts}))
