"""How entities in segments without an owner are, as metrics of the master that leads: no worker is there to tell."""

import asyncio
from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from libs.core.entity_metrics import ENTITIES
from libs.core.errors import Retryable
from libs.core.log import get_logger
from libs.core.store.entity_counts import EntityCounts

log = get_logger(__name__)

_COUNT_SECONDS = 3.0


class UnownedEntities(Collector):
    """Entities that no worker counts, by the state that is shown of them. Register it once a process."""

    def __init__(self, counts: EntityCounts) -> None:
        self._entities = counts
        self._counts: Mapping[str, int] | None = None

    async def count_for_ever(self) -> None:
        """Keep the numbers up to date until cancelled, as when another master leads; then forget them."""
        try:
            while True:
                try:
                    self._counts = await self._entities.unowned()
                except Retryable as error:
                    self._counts = None
                    log.debug("entities without an owner are not counted", reason=str(error))
                await asyncio.sleep(_COUNT_SECONDS)
        finally:
            self._counts = None

    def describe(self) -> Iterator[Metric]:
        """The metrics without values."""
        yield ENTITIES.of(None)

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        counts = self._counts
        yield ENTITIES.of({(state,): count for state, count in counts.items()} if counts is not None else None)
