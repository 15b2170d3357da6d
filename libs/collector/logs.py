"""Remove expired logs of bots and schedules, also of removed ids. A log's index is removed before the log."""

from datetime import timedelta

from libs.collector.log_days import LogDays, LogRules
from libs.collector.sweep import Sweep
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.logs.keys import LOGS_PREFIX, index_key

_QUIET_SECONDS = 3600.0


class OldLogs:
    """The logs bucket, which services share: each collects all of it, and the shortest retention counts.

    Args:
        keep_seconds: retention of a log after its last write; 0 for ever.
        most_days: number of days with output that are kept of each id; 0 for no limit.
    """

    kind = "logs"

    def __init__(
        self,
        store: ObjectStore,
        bucket: str,
        keep_seconds: float,
        most_days: int,
        *,
        quiet_seconds: float = _QUIET_SECONDS,
    ) -> None:
        self._store = store
        self._bucket = bucket
        self._keep_seconds = keep_seconds
        self._most_days = most_days
        self._quiet_seconds = quiet_seconds

    async def collect(self, sweep: Sweep) -> None:
        """Remove expired logs. May be repeated and interrupted."""
        if not self._keep_seconds and not self._most_days:
            return
        now = await self._store.now(self._bucket)
        rules = LogRules(
            now - timedelta(seconds=self._keep_seconds) if self._keep_seconds else None,
            self._most_days,
            now - timedelta(seconds=self._quiet_seconds),
        )
        days = LogDays(rules)
        async for info in self._store.list(self._bucket, LOGS_PREFIX):
            for log in days.expired(info):
                await sweep.remove(self._store, self._bucket, log, index_key(log.key))
