"""Remove records of runs beyond the number kept per entity. An index of the database removes expired ones."""

import asyncio

from libs.collector.sweep import Sweep
from libs.core.store.run_trimming import RunTrimming

_PAUSE_SECONDS = 0.05


class ManyRecords:
    """The records of one service; *most* is the number kept per entity, 0 for no limit."""

    kind = "records"

    def __init__(self, runs: RunTrimming, most: int) -> None:
        self._runs = runs
        self._most = most

    async def collect(self, sweep: Sweep) -> None:
        """Remove the excess records. May be repeated and interrupted."""
        if not self._most:
            return
        async for entity_id in self._runs.entities(self._most):
            if sweep.dry_run:
                sweep.note(await self._runs.beyond(entity_id, self._most))
                continue
            async for removed in self._runs.trim(entity_id, self._most):
                sweep.note(removed)
                await asyncio.sleep(_PAUSE_SECONDS)
