"""Find expired results and output of backtests, and leftovers of interrupted attempts."""

import heapq
from collections.abc import Sequence
from datetime import timedelta

from libs.collector.collector import Garbage
from libs.collector.sweep import Sweep
from libs.core.config.connection_settings import StorageSettings
from libs.core.config.retention_settings import RetentionSettings
from libs.core.storage.object_store import ObjectInfo, ObjectStore
from services.backtest_runner.objects import is_analysis, is_logs, is_staged, logs_beside

_STAGED_SECONDS = 14 * 86_400.0
"""The retention of staged results: attempts that are not completed are on their worker's disk for a week."""


def old_results(store: ObjectStore, storage: StorageSettings, retention: RetentionSettings) -> Sequence[Garbage]:
    """Return the garbage of results, by the settings."""
    return [OldResults(store, storage.results_bucket, retention.result_keep_seconds, retention.result_count)]


class OldResults:
    """The results bucket. Objects of other names stay.

    Args:
        keep_seconds: retention of results; 0 for ever.
        most: number of newest backtests whose results are kept; 0 for no limit.
    """

    kind = "results"

    def __init__(self, store: ObjectStore, bucket: str, keep_seconds: float, most: int) -> None:
        self._store = store
        self._bucket = bucket
        self._keep_seconds = keep_seconds
        self._most = most

    async def collect(self, sweep: Sweep) -> None:
        """Remove expired results. May be repeated and interrupted."""
        now = await self._store.now(self._bucket)
        written_before = now - timedelta(seconds=self._keep_seconds)
        staged_before = now - timedelta(seconds=_STAGED_SECONDS)
        oldest_kept = await self._oldest_kept() if self._most else None
        async for info in self._store.list(self._bucket, ""):
            is_old = bool(self._keep_seconds) and info.modified_at < written_before
            if is_analysis(info.key):
                if is_old or (oldest_kept is not None and _age_order(info) < oldest_kept):
                    # The output is removed before the result, by which it is found again after an interruption.
                    await sweep.remove(self._store, self._bucket, info, logs_beside(info.key))
            elif (is_logs(info.key) and is_old) or (is_staged(info.key) and info.modified_at < staged_before):
                await sweep.remove(self._store, self._bucket, info)

    async def _oldest_kept(self) -> tuple[float, str] | None:
        """Return the last of the newest results; None when there are not more than are kept."""
        newest: list[tuple[float, str]] = []
        async for info in self._store.list(self._bucket, ""):
            if is_analysis(info.key):
                (heapq.heappushpop if len(newest) == self._most else heapq.heappush)(newest, _age_order(info))
        return newest[0] if len(newest) == self._most else None


def _age_order(info: ObjectInfo) -> tuple[float, str]:
    return info.modified_at.timestamp(), info.key
