"""How the entities are, as a metric of workers and of the leading master: one of them counts each entity."""

from libs.core.observability.metrics import Declared

ENTITIES = Declared(
    "runtime_entities",
    "gauge",
    "Bots, backtests or schedules by state: a worker counts its segments, the leading master counts segments "
    "without a live owner.",
    ("state",),
)
