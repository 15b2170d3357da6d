"""The process's metrics: what every process measures, and the one way to measure an operation.

A metric is declared beside what it measures, as a module constant in the default registry of ``prometheus_client``;
this module holds those that belong to no other.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram, Info

registry: CollectorRegistry = REGISTRY
"""What ``/metrics`` shows: ours, and the process's memory, CPU, open files and garbage collection."""

OPERATION_SECONDS = Histogram(
    "runtime_operation_seconds",
    "How long operations on other systems and of our own loops took, by how they ended.",
    ["system", "operation", "outcome"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
LOOP_LAG_SECONDS = Gauge(
    "runtime_event_loop_lag_seconds",
    "How late the event loop ran a timer, at worst within the last interval of measuring.",
)
PROCESS = Info("runtime_process", "Which service, role and version this process is.")


def record(system: str, operation: str, outcome: str, seconds: float) -> None:
    """Count one operation that took *seconds*. All three names come from small fixed sets."""
    OPERATION_SECONDS.labels(system, operation, outcome).observe(seconds)


@contextmanager
def observe(system: str, operation: str) -> Iterator[None]:
    """Time the block as one *operation* of *system*: rate, errors and duration.

    The outcome is ``ok``, ``cancelled`` (the caller gave up) or ``error`` (it raised anything else). Names come from
    small fixed sets and never hold an id.
    """
    begun = time.perf_counter()
    outcome = "error"
    try:
        yield
        outcome = "ok"
    except (asyncio.CancelledError, GeneratorExit):
        outcome = "cancelled"
        raise
    finally:
        record(system, operation, outcome, time.perf_counter() - begun)


async def measure_loop_lag(interval_seconds: float = 1.0, samples: int = 4) -> None:
    """Measure for ever how late the loop is; a part of every process.

    Args:
        interval_seconds: how often the gauge is written, with the worst of *samples* measured meanwhile.
    """
    nap = interval_seconds / samples
    while True:
        worst = 0.0
        for _ in range(samples):
            due = time.perf_counter() + nap
            await asyncio.sleep(nap)
            worst = max(worst, time.perf_counter() - due)
        LOOP_LAG_SECONDS.set(worst)
