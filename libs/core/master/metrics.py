"""The master's state as metrics, read when it is scraped."""

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from libs.core.master.status import MasterSnapshot
from libs.core.metrics import Declared

LEADING = Declared("runtime_master_leading", "gauge", "Whether this master leads.")
SEGMENTS_MAX = Declared(
    "runtime_segments_max", "gauge", "For how many segments this deployment is sized (--max-segment)."
)
SEGMENTS = Declared("runtime_segments", "gauge", "Segments with entities, by state.", ("state",))
SEGMENT_WAIT = Declared(
    "runtime_segment_wait_seconds",
    "gauge",
    "For how long the segment that waits longest has been without an owner, as far as this master has seen.",
)
WORKERS = Declared("runtime_workers", "gauge", "Connected workers, by what they are there for.", ("state",))
SURVEY_AGE = Declared("runtime_survey_age_seconds", "gauge", "Time since the segments were last read.")


class MasterCollector(Collector):
    """Segments and workers of the master that leads; of one that does not, only that. Register it once a process.

    Args:
        longest_wait_seconds: for how long a segment has been without an owner, at most.
    """

    def __init__(
        self, snapshot: Callable[[], MasterSnapshot], longest_wait_seconds: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._snapshot = snapshot
        self._longest_wait_seconds = longest_wait_seconds

    def describe(self) -> Iterator[Metric]:
        """The metrics without values."""
        for declared in (LEADING, SEGMENTS_MAX, SEGMENTS, SEGMENT_WAIT, WORKERS, SURVEY_AGE):
            yield declared.of(None)

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        snapshot = self._snapshot()
        yield LEADING.of(float(snapshot.leads))
        yield SEGMENTS_MAX.of(float(snapshot.max_segment))
        # Not zero when it is not known.
        known = snapshot.leads and snapshot.surveyed_seconds_ago is not None
        yield SEGMENTS.of({(state,): count for state, count in snapshot.segment_counts().items()} if known else None)
        yield SEGMENT_WAIT.of(self._longest_wait_seconds() if known else None)
        yield WORKERS.of({(role,): count for role, count in snapshot.worker_counts().items()} if known else None)
        yield SURVEY_AGE.of(snapshot.surveyed_seconds_ago if known else None)
