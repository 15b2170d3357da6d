"""The master's state as metrics, read when it is scraped."""

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from libs.core.master.status import MasterSnapshot


class MasterCollector(Collector):
    """Segments and workers of the master that leads; of one that does not, only that. Register it once a process."""

    def __init__(self, snapshot: Callable[[], MasterSnapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metrics as they are now."""
        snapshot = self._snapshot()
        yield GaugeMetricFamily("runtime_master_leading", "Whether this master leads.", value=float(snapshot.leads))
        sized = "For how many segments this deployment is sized (--max-segment)."
        yield GaugeMetricFamily("runtime_segments_max", sized, value=float(snapshot.max_segment))
        if not snapshot.leads or snapshot.surveyed_seconds_ago is None:
            # Not zero: it is not known.
            return
        segments = GaugeMetricFamily("runtime_segments", "Segments with entities, by state.", labels=["state"])
        for state, count in snapshot.segment_counts().items():
            segments.add_metric([state], count)
        yield segments
        workers = GaugeMetricFamily("runtime_workers", "Connected workers, by role.", labels=["role"])
        for role, count in snapshot.worker_counts().items():
            workers.add_metric([role], count)
        yield workers
        age = "Time since the segments were last read."
        yield GaugeMetricFamily("runtime_survey_age_seconds", age, value=snapshot.surveyed_seconds_ago)
