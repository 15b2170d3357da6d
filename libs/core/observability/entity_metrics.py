"""The states of entities as a metric; each entity is counted by one worker or by the leading master."""

from libs.core.observability.metrics import Declared

ENTITIES = Declared(
    "runtime_entities",
    "gauge",
    "Bots, backtests or schedules by state: a worker counts its segments, the leading master counts segments "
    "without a live owner.",
    ("state",),
)
