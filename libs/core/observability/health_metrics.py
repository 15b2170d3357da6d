"""The states in `/readyz` as metrics."""

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from libs.core.http.health import Readiness
from libs.core.observability.metrics import Declared

DEPENDENCY_OK = Declared(
    "runtime_dependency_ok", "gauge", "Whether a dependency of this process is ready, as in /readyz.", ("dependency",)
)


class ReadinessCollector(Collector):
    """The state of each dependency. Register it once a process."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def describe(self) -> Iterator[Metric]:
        """Return the metric without values."""
        yield DEPENDENCY_OK.of(None)

    def collect(self) -> Iterator[Metric]:
        """Return the metric with its current values."""
        yield DEPENDENCY_OK.of({(name,): float(state.ok) for name, state in self._readiness.states.items()})
