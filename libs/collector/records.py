"""Records of runs beyond what is kept of one entity. Those past their time are removed by an index of the database."""

import asyncio

from libs.collector.sweep import Sweep
from libs.core.store.run_trimming import RunTrimming

_PAUSE_SECONDS = 0.05


class ManyRecords:
    """The records of one service; *most* is how many are kept of one entity, 0 for any number."""

    kind = "records"

    def __init__(self, runs: RunTrimming, most: int) -> None:
        self._runs = runs
        self._most = most

    async def collect(self, sweep: Sweep) -> None:
        """Remove what is no longer kept. May be repeated, and broken off anywhere."""
        if not self._most:
            return
        async for entity_id in self._runs.entities(self._most):
            if sweep.dry_run:
                sweep.note(await self._runs.beyond(entity_id, self._most))
                continue
            async for removed in self._runs.trim(entity_id, self._most):
                sweep.note(removed)
                await asyncio.sleep(_PAUSE_SECONDS)
