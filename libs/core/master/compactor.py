"""Order moves of single entities, so that half-empty segments are merged slowly; a loop of the leading master.

The order is in the entity's document (:mod:`libs.core.store.relocations`). The owner of its segment carries it out.
"""

import asyncio
from collections.abc import Callable, Sequence

from prometheus_client import Counter

from libs.core.errors import RuntimeFault
from libs.core.master.compaction import REST_SECONDS, Calm, Source, fleet_of, sources
from libs.core.master.master import Master
from libs.core.master.role import Loop, Loops, MasterSettings
from libs.core.observability.log import get_logger
from libs.core.process.process import Process
from libs.core.store.entities import Entity, EntityStore
from libs.core.store.partitions import PartitionStore
from libs.core.store.relocations import COMPACTION

log = get_logger(__name__)

ORDERS = Counter("runtime_compaction_orders_total", "Moves of single entities that compaction ordered.")

_MOST_SOURCES = 5
"""Segments whose entities are read in one round, when some of them cannot move."""
_LOOK_SECONDS = 5.0

IsAtRest = Callable[[Entity, float], bool]
"""Whether an entity may move at this time (Unix seconds): it runs undisturbed, or it is switched off."""


def compacting(is_at_rest: IsAtRest) -> Loops:
    """Return what creates the loop of a service, in which *is_at_rest* says which entities may move."""

    def loops(process: Process, master: Master, settings: MasterSettings) -> Sequence[Loop]:
        if not settings.compaction.enabled:
            return []
        capacity = settings.partitions.max_per_partition
        collection = process.service.collection
        entities = EntityStore(process.database, collection, PartitionStore(process.database, collection, capacity))
        pause_seconds = settings.compaction.pause_seconds

        async def run() -> None:
            await master.surveyed()
            await Compactor(entities, master, is_at_rest, capacity=capacity, pause_seconds=pause_seconds).run()

        return [("compaction", run)]

    return loops


class Compactor:
    """Orders at most one move at a time, with a pause after each.

    Args:
        capacity: maximum number of entities in a segment.
        pause_seconds: for how long nothing may have happened before an order, another order included.
    """

    def __init__(
        self, entities: EntityStore, master: Master, is_at_rest: IsAtRest, *, capacity: int, pause_seconds: float
    ) -> None:
        self._entities = entities
        self._master = master
        self._is_at_rest = is_at_rest
        self._capacity = capacity
        self._look_seconds = min(_LOOK_SECONDS, pause_seconds / 4)
        self._calm = Calm(pause_seconds)

    async def run(self) -> None:
        """Look at the fleet, forever."""
        while True:
            try:
                await self.look()
            except RuntimeFault as error:
                self._calm.disturbed()
                log.warning("compaction pauses", reason=str(error))
            await asyncio.sleep(self._look_seconds)

    async def look(self) -> None:
        """Order a move, if the fleet has been at rest for long enough and a segment can be emptied."""
        fleet = fleet_of(self._master.snapshot())
        if not self._calm.lasts(fleet, asyncio.get_running_loop().time()):
            return
        for source in sources(fleet, self._capacity)[:_MOST_SOURCES]:
            if (entity := await self._next_of(source)) is not None:
                # Last, since it reads all entities.
                if not await self._entities.relocations.any_ordered():
                    await self._order(entity, source)
                return

    async def _next_of(self, source: Source) -> Entity | None:
        """Return the entity of *source* that moves next; None unless all of them may move."""
        now = self._master.now()
        found = await self._entities.in_segment(source.segment_id)
        if not found or not all(self._is_at_rest(one, now) and not moved_lately(one, now) for one in found):
            return None
        return found[0]

    async def _order(self, entity: Entity, source: Source) -> None:
        if not self._master.leads:
            return
        self._calm.disturbed()
        ordered = await self._entities.relocations.order(
            {**entity.as_read, "status.run_id": entity.status.get("run_id")},
            origin=source.segment_id,
            target=source.target,
            revision=entity.revision,
            reason=COMPACTION,
        )
        if ordered:
            ORDERS.inc()
            log.info(
                "entity is to move: compaction",
                id=entity.id,
                segment=source.segment_id,
                to=source.target,
                left=source.entities - 1,
            )


def moved_lately(entity: Entity, now: float) -> bool:
    """Whether the entity moved within the last hour, or was ordered to."""
    last = entity.relocation
    return last is not None and now - last.last_at() < REST_SECONDS
