"""Metrics of a worker's segments, read when they are scraped."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from libs.core.observability.entity_metrics import ENTITIES
from libs.core.observability.metrics import Declared
from libs.core.worker.worker import WorkerSnapshot

LEASE_AGE = Declared(
    "runtime_lease_age_seconds",
    "gauge",
    "Time since the oldest lease of this worker was last renewed; 0 without a segment.",
)
SEGMENTS_HELD = Declared("runtime_segments_held", "gauge", "Segments whose leases this worker holds.")
CONTAINERS = Declared("runtime_containers", "gauge", "Running containers of this worker.")


class WorkerCollector(Collector):
    """Leases, containers and entities of one worker. Register it once a process.

    Args:
        life_seconds: duration of a lease.
        entities: returns the number of entities in the owned segments by state; empty without one.
    """

    def __init__(
        self,
        snapshot: Callable[[], WorkerSnapshot],
        *,
        life_seconds: float,
        entities: Callable[[], Mapping[str, int]],
    ) -> None:
        self._snapshot = snapshot
        self._life_seconds = life_seconds
        self._entities = entities

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without values."""
        for declared in (LEASE_AGE, SEGMENTS_HELD, CONTAINERS, ENTITIES):
            yield declared.of(None)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics with their current values."""
        snapshot = self._snapshot()
        least_proven = min((owned.proven_seconds for owned in snapshot.held), default=self._life_seconds)
        yield LEASE_AGE.of(self._life_seconds - least_proven)
        yield SEGMENTS_HELD.of(len(snapshot.held))
        yield CONTAINERS.of(snapshot.running)
        yield ENTITIES.of({(state,): count for state, count in self._entities().items()})
