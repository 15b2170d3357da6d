"""Wait until a removed bot or schedule has no containers."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from libs.core.process.service import ServiceDefinition
from libs.core.store.client import Database
from libs.core.store.entities import EntityStore
from libs.core.store.leases import LeaseStore
from libs.core.store.ownership import OwnershipReader
from libs.core.store.runs import LiveRuns, RunFilter, RunStore
from tools.bots.outcome import NotInTime

_POLL_SECONDS = 0.1
_WORKERS_SECONDS = 1.0
"""How long workers have to remove a document in a segment without an owner, before this process does it."""


@dataclass(frozen=True)
class Leftover:
    """What a lost worker left of a removed entity: a dead container, and a run whose end was not observed."""

    worker: str
    host: str
    container: str | None

    def __str__(self) -> str:
        container = f"container {self.container[:12]}" if self.container else "an unfinished start"
        return f"{container} on host {self.host} (worker {self.worker})"


class Removal:
    """The remains of an entity of *service* in its *database*; *leases* are those of its segments."""

    def __init__(
        self, service: ServiceDefinition, entities: EntityStore, database: Database, leases: LeaseStore
    ) -> None:
        self._service = service
        self._entities = entities
        self._runs = RunStore(database)
        self._live_runs = LiveRuns(self._runs, leases)
        self._owners = OwnershipReader(database)

    async def until_gone(self, entity_id: str, seconds: float) -> Sequence[Leftover]:
        """Wait until its document is removed and no container of it can run; return what remains to be cleaned up.

        A document in a segment without a live owner is removed here, since there may be no worker to do it.

        Raises:
            NotInTime: not within *seconds*.
        """
        begun = time.monotonic()
        while True:
            entity = await self._entities.get(entity_id)
            may_live = await self._live_runs.of([entity_id])
            if entity is None and not may_live:
                return await self._leftovers(entity_id)
            waited = time.monotonic() - begun
            is_idle = entity is not None and not may_live and waited > _WORKERS_SECONDS
            if is_idle and entity is not None and not await self._is_owned(entity.segment_id):
                await self._entities.delete(entity_id, revision=entity.revision)
            elif waited > seconds:
                raise NotInTime(
                    f"{self._service.noun} {entity_id!r} was not removed within {seconds:g} s; `runtime status` shows "
                    f"whether a worker owns it"
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def _is_owned(self, segment_id: int) -> bool:
        owner = (await self._owners.of([segment_id])).get(segment_id)
        return owner is not None and owner.is_live

    async def _leftovers(self, entity_id: str) -> Sequence[Leftover]:
        runs = await self._runs.list(RunFilter(entity_id=entity_id, open=True))
        return [Leftover(run.worker_id, run.host, run.container_id) for run in runs]
