"""Metrics of garbage collection."""

from prometheus_client import Counter, Gauge

COLLECTED = Counter(
    "runtime_collected_total",
    "Objects and run records that the garbage collector removed, or with dry_run=true would have removed.",
    ["kind", "dry_run"],
)
COLLECTED_BYTES = Counter(
    "runtime_collected_bytes_total",
    "Size of the objects that the garbage collector removed, or with dry_run=true would have removed.",
    ["kind", "dry_run"],
)
FAILURES = Counter("runtime_collection_failures_total", "Rounds of garbage collection that failed, by kind.", ["kind"])
LAST_SUCCESS = Gauge(
    "runtime_collection_last_success_timestamp_seconds",
    "Time of the last successful round of garbage collection, by kind.",
    ["kind"],
)
