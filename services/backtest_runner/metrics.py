"""Metrics of the queue of backtests, read when they are scraped."""

from collections.abc import Callable, Collection, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from libs.core.observability.metrics import Declared
from services.backtest_runner.pool import SegmentPool

LENGTH = Declared("runtime_backtest_queue_length", "gauge", "Backtests of this worker's segments that wait for a slot.")
AGE = Declared(
    "runtime_backtest_queue_age_seconds",
    "gauge",
    "Age of the oldest backtest that waits for its first attempt; 0 when none waits.",
)


class QueueCollector(Collector):
    """The queues of the owned segments. Register it once a process.

    Args:
        pools: returns the pools of the owned segments.
    """

    def __init__(self, pools: Callable[[], Collection[SegmentPool]]) -> None:
        self._pools = pools

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without values."""
        for declared in (LENGTH, AGE):
            yield declared.of(None)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics with their current values."""
        pools = self._pools()
        yield LENGTH.of(sum(pool.queue_length for pool in pools))
        yield AGE.of(max((pool.queue_age_seconds for pool in pools), default=0.0))
