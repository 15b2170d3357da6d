"""Determine which of the bots under a kill switch are down, and since when."""

from collections.abc import Collection
from datetime import datetime

from libs.core.store.client import Database
from libs.core.store.entities import EntityStore
from libs.core.store.leases import LeaseStore
from libs.core.store.runs import LiveRuns, RunFilter, RunStore

_ALIVE = ("running", "starting")


class Standstill:
    """The ends of held bots; *leases* are those of their segments."""

    def __init__(self, entities: EntityStore, database: Database, leases: LeaseStore) -> None:
        self._entities = entities
        self._runs = RunStore(database)
        self._leases = leases
        self._live_runs = LiveRuns(self._runs, leases)

    async def down(self, bot_ids: Collection[str], since: datetime) -> dict[str, datetime | None]:
        """Return those of these bots that do not run, each with the end of its run; None when that was before *since*.

        Raises:
            StoreUnavailable: unknown.
        """
        owned = {lease.segment_id for lease in await self._leases.live()}
        found = await self._entities.by_ids(bot_ids)
        # A bot without an owner does not run, regardless of its last status.
        alive = {bot.id for bot in found.values() if bot.segment_id in owned and bot.status.get("state") in _ALIVE}
        alive |= (await self._live_runs.of(bot_ids)).keys()
        down: dict[str, datetime | None] = {one: None for one in bot_ids if one not in alive}
        ended = await self._runs.list(RunFilter(entity_ids=down, ended_since=since), limit=0)
        # Newest first: the first one counts.
        return down | {run.entity_id: run.ended_at for run in reversed(ended)}
