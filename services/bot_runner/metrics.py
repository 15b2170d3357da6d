"""Metrics of single bots, read when they are scraped; optional, because there are many bots."""

from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from libs.core.observability.metrics import Declared
from libs.docker_runner.usage.totals import UsageTally
from services.bot_runner.status import BotState, BotStatus

UP = Declared("runtime_bot_up", "gauge", "Whether a bot runs (METRICS_PER_BOT).", ("id",))
RESTARTS = Declared(
    "runtime_bot_restarts_total", "counter", "Restarts of a bot since it was created (METRICS_PER_BOT).", ("id",)
)
CPU = Declared(
    "runtime_bot_cpu_seconds_total",
    "counter",
    "Processor time of a bot's current container (METRICS_PER_BOT).",
    ("id",),
)
MEMORY = Declared("runtime_bot_memory_bytes", "gauge", "Memory that a bot uses (METRICS_PER_BOT).", ("id",))


class HasStatuses(Protocol):
    """A source of the statuses of a segment's bots."""

    @property
    def statuses(self) -> Collection[BotStatus]:
        """The status of each bot."""


class BotsCollector(Collector):
    """Each bot of the owned segments. Register it once a process.

    Args:
        works: returns the works of the owned segments.
        usage: the usage of their containers.
    """

    def __init__(self, works: Callable[[], Collection[HasStatuses]], usage: UsageTally) -> None:
        self._works = works
        self._usage = usage

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without values."""
        for declared in (UP, RESTARTS, CPU, MEMORY):
            yield declared.of(None)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics with their current values."""
        statuses = [status for work in self._works() for status in work.statuses]
        yield UP.of({(status.bot_id,): float(status.state is BotState.RUNNING) for status in statuses})
        yield RESTARTS.of({(status.bot_id,): status.history.restarts for status in statuses})
        yield CPU.of({(usage.container.id,): usage.stats.cpu_seconds for usage in self._usage.latest})
        yield MEMORY.of({(usage.container.id,): usage.stats.memory_bytes for usage in self._usage.latest})
