"""The queue of backtests as metrics that are read when they are scraped."""

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from libs.core.metrics import Declared
from services.backtest_runner.pool import SegmentPool

LENGTH = Declared("runtime_backtest_queue_length", "gauge", "Backtests of this worker's segment that wait for a slot.")
AGE = Declared(
    "runtime_backtest_queue_age_seconds",
    "gauge",
    "For how long the backtest has been known that waits longest for its first attempt; 0 when none does.",
)


class QueueCollector(Collector):
    """The queue of the segment that is owned. Register it once a process.

    Args:
        pool: what runs the segment's backtests; None without a segment.
    """

    def __init__(self, pool: Callable[[], SegmentPool | None]) -> None:
        self._pool = pool

    def describe(self) -> Iterator[Metric]:
        """The metrics without values."""
        for declared in (LENGTH, AGE):
            yield declared.of(None)

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        pool = self._pool()
        yield LENGTH.of(pool.queue_length if pool is not None else 0)
        yield AGE.of(pool.queue_age_seconds if pool is not None else 0)
