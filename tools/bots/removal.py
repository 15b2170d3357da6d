"""Waiting until a removed bot or schedule has left the machines too."""

import asyncio
import time

from libs.core.service import ServiceDefinition
from libs.core.store.client import Database
from libs.core.store.entities import EntityStore
from libs.core.store.leases import LeaseStore
from libs.core.store.live_runs import LiveRuns
from libs.core.store.runs import RunStore
from tools.bots.outcome import NotInTime

_POLL_SECONDS = 0.1


class Removal:
    """What is left of an entity of *service* in its *database*; *leases* are those of its segments."""

    def __init__(
        self, service: ServiceDefinition, entities: EntityStore, database: Database, leases: LeaseStore
    ) -> None:
        self._service = service
        self._entities = entities
        self._live_runs = LiveRuns(RunStore(database), leases)

    async def until_gone(self, entity_id: str, seconds: float) -> None:
        """Wait until its document is removed and nothing of it can run any more.

        Raises:
            NotInTime: not within *seconds*.
        """
        deadline = time.monotonic() + seconds
        while await self._entities.get(entity_id) is not None or await self._live_runs.of([entity_id]):
            if time.monotonic() > deadline:
                raise NotInTime(
                    f"{self._service.noun} {entity_id!r} is not gone after {seconds:g} s; `runtime status` shows "
                    f"whether a worker owns it"
                )
            await asyncio.sleep(_POLL_SECONDS)
