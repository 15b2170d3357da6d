"""The states of entities in segments without an owner, as metrics of the leading master: no worker counts them."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from libs.core.observability.entity_metrics import ENTITIES
from libs.core.process.isolation import repeat
from libs.core.store.entity_counts import EntityCounts

_COUNT_SECONDS = 5.0


class UnownedEntities(Collector):
    """Entities without an owner, by state. Register it once a process."""

    def __init__(self, counts: EntityCounts) -> None:
        self._entities = counts
        self._counts: Mapping[str, int] | None = None

    async def count_for_ever(self) -> None:
        """Update the numbers until cancelled, as when another master leads; then drop them."""
        try:
            await repeat("count entities without an owner", self._count, _COUNT_SECONDS)
        finally:
            self._counts = None

    async def _count(self) -> None:
        try:
            self._counts = await self._entities.unowned()
        except Exception:
            self._counts = None  # no value rather than an outdated one
            raise

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without values."""
        yield ENTITIES.of(None)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics with their current values."""
        counts = self._counts
        yield ENTITIES.of({(state,): count for state, count in counts.items()} if counts is not None else None)
