"""Metrics of the engine's room, read when they are scraped."""

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from libs.core.observability.metrics import Declared
from libs.docker_runner.engine.room import Priority
from libs.docker_runner.engine.room_view import EngineRoom

MEMORY = Declared(
    "runtime_engine_room_memory_bytes",
    "gauge",
    "Memory that the limits of all containers on this worker's engine may add up to (total), and the free part of it.",
    ("part",),
)
CPUS = Declared(
    "runtime_engine_room_cpus",
    "gauge",
    "Processors that the limits of all containers on this worker's engine may add up to (total), and the free part.",
    ("part",),
)
WAITING = Declared(
    "runtime_waiting_for_room",
    "gauge",
    "Bots, backtests or schedules of this worker that wait because its engine has no room for them.",
)


class RoomCollector(Collector):
    """Room of one engine, by the limits of the containers on it. Register it once a process."""

    def __init__(self, room: EngineRoom) -> None:
        self._room = room

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without values."""
        for declared in (MEMORY, CPUS, WAITING):
            yield declared.of(None)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as of the last refresh."""
        room = self._room.room(Priority.BOT)
        if room is not None:
            yield MEMORY.of({("total",): room.total.memory_bytes, ("free",): room.free.memory_bytes})
            yield CPUS.of({("total",): room.total.cpus, ("free",): room.free.cpus})
        yield WAITING.of(self._room.waiting)
