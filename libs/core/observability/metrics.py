"""Metrics that every process exports, and the function that measures operations.

A metric is declared beside what it measures, as a module constant in the default registry of ``prometheus_client``;
this module has those that belong to no other.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

# The time at which each series began would double the number of series.
disable_created_metrics()  # type: ignore[no-untyped-call]

registry: CollectorRegistry = REGISTRY
"""The registry of ``/metrics``: the runtime's metrics, and the process's memory, CPU, files and garbage collection."""

OPERATION_SECONDS = Histogram(
    "runtime_operation_seconds",
    "Duration of operations on other systems and of internal loops, by outcome.",
    ["system", "operation", "outcome"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
LOOP_LAG_SECONDS = Gauge(
    "runtime_event_loop_lag_seconds",
    "Largest delay of a timer of the event loop within the last measuring interval.",
)
PROCESS = Info("runtime_process", "Service, role and version of this process.")


@dataclass(frozen=True)
class Declared:
    """A metric whose value is read from its source when it is scraped: a constant of its module.

    Attributes:
        name: as exposed; that of a counter ends in ``_total``.
    """

    name: str
    kind: Literal["gauge", "counter"]
    meaning: str
    labels: tuple[str, ...] = ()

    def of(self, values: float | Mapping[tuple[str, ...], float] | None) -> GaugeMetricFamily | CounterMetricFamily:
        """Return the family for a collector: one value, or one for each set of *labels*; None without a value."""
        family = (GaugeMetricFamily if self.kind == "gauge" else CounterMetricFamily)(
            self.name, self.meaning, labels=self.labels
        )
        if values is not None:
            for labels, value in (values if isinstance(values, Mapping) else {(): values}).items():
                family.add_metric(labels, value)
        return family


def record(system: str, operation: str, outcome: str, seconds: float) -> None:
    """Record one operation that took *seconds*. All three names come from small fixed sets."""
    OPERATION_SECONDS.labels(system, operation, outcome).observe(seconds)


@contextmanager
def observe(system: str, operation: str, *, refused: Callable[[Exception], bool] = lambda _: False) -> Iterator[None]:
    """Time the block as one *operation* of *system*: rate, errors and duration.

    The outcome is ``ok``, ``cancelled`` (by the caller), ``refused`` (it raised an error for which *refused* is true: a
    valid answer) or ``error`` (it raised anything else). Names come from small fixed sets and contain
    no ids.
    """
    begun = time.perf_counter()
    outcome = "error"
    try:
        yield
        outcome = "ok"
    except (asyncio.CancelledError, GeneratorExit):
        outcome = "cancelled"
        raise
    except Exception as error:
        outcome = "refused" if refused(error) else "error"
        raise
    finally:
        record(system, operation, outcome, time.perf_counter() - begun)


async def measure_loop_lag(interval_seconds: float = 2.0, samples: int = 2) -> None:
    """Measure the delay of the event loop, forever; a component of every process.

    Args:
        interval_seconds: how often the gauge is updated, with the maximum of *samples* measurements.
    """
    nap = interval_seconds / samples
    while True:
        worst = 0.0
        for _ in range(samples):
            due = time.perf_counter() + nap
            await asyncio.sleep(nap)
            worst = max(worst, time.perf_counter() - due)
        LOOP_LAG_SECONDS.set(worst)
