"""The master's state as metrics, read when it is scraped."""

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from libs.core.master.counts import MasterCounts
from libs.core.observability.metrics import Declared

LEADING = Declared("runtime_master_leading", "gauge", "Whether this master leads.")
SEGMENTS_MAX = Declared(
    "runtime_segments_max", "gauge", "Number of segments that this deployment is sized for (--max-segment)."
)
SEGMENTS = Declared("runtime_segments", "gauge", "Segments with entities, by state.", ("state",))
SEGMENT_WAIT = Declared(
    "runtime_segment_wait_seconds",
    "gauge",
    "How long the longest-waiting segment has had no owner, as observed by this master.",
)
WORKERS = Declared("runtime_workers", "gauge", "Connected workers, by state.", ("state",))
MISSING_MEMORY = Declared(
    "runtime_room_missing_memory_bytes",
    "gauge",
    "Memory missing for the largest waiting entity on the worker with the most room; 0 when none is missing.",
)
MISSING_CPUS = Declared(
    "runtime_room_missing_cpus",
    "gauge",
    "Processors missing for the largest waiting entity on the worker with the most room; 0 when none is missing.",
)
SURVEY_AGE = Declared("runtime_survey_age_seconds", "gauge", "Time since the segments were last read.")
_DECLARED = (LEADING, SEGMENTS_MAX, SEGMENTS, SEGMENT_WAIT, WORKERS, MISSING_MEMORY, MISSING_CPUS, SURVEY_AGE)


class MasterCollector(Collector):
    """Segments and workers, of the leading master only; all masters export whether they lead. Register it once."""

    def __init__(self, counts: Callable[[], MasterCounts]) -> None:
        self._counts = counts

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without values."""
        for declared in _DECLARED:
            yield declared.of(None)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics with their current values."""
        counts = self._counts()
        yield LEADING.of(float(counts.leads))
        yield SEGMENTS_MAX.of(float(counts.max_segment))
        # Omitted, not zero, while unknown.
        known = counts.leads and counts.surveyed_seconds_ago is not None
        yield SEGMENTS.of({(state,): count for state, count in counts.segments.items()} if known else None)
        yield SEGMENT_WAIT.of(counts.longest_wait_seconds if known else None)
        yield WORKERS.of({(role,): count for role, count in counts.workers.items()} if known else None)
        lacks = counts.room.missing
        yield MISSING_MEMORY.of((float(lacks.memory_bytes) if lacks is not None else 0.0) if known else None)
        yield MISSING_CPUS.of((lacks.cpus if lacks is not None else 0.0) if known else None)
        yield SURVEY_AGE.of(counts.surveyed_seconds_ago if known else None)
