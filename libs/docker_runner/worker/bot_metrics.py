"""The metrics in the output of this worker's bots: note their lines, store their values, show them to Prometheus.

Noting a line is cheap, since a bot may print a million of them: only the latest lines are kept, and parsed when the
values are stored.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from libs.core.bot_metrics import LINE_BYTES, MetricBook, sample_in
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import Declared
from libs.core.process.isolation import repeat
from libs.docker_runner.containers.container import ManagedContainer

log = get_logger(__name__)

VALUE = Declared(
    "runtime_bot_value",
    "gauge",
    "Latest value of a metric that a bot or a schedule has printed (METRICS_BOT_VALUES).",
    ("bot", "metric"),
)

STORE_SECONDS = 3.0
LATEST_BYTES = 32 * 1024
"""Maximum size of the lines of one bot between two rounds; earlier ones are dropped."""

_LOOK_SECONDS = 30.0
_LAST_SECONDS = 2.0
_ID_CHARACTERS = 128


class Stored(Protocol):
    """What is stored of one entity."""

    @property
    def entity(self) -> object:
        """What identifies the entity's document."""

    @property
    def book(self) -> MetricBook | None:
        """Its metrics; None without any."""


class MetricsStore(Protocol):
    """The store of metrics. Raises Retryable."""

    async def load(self, entity_ids: Collection[str]) -> Mapping[str, Stored]:
        """Return what is stored of those of these entities that exist."""

    async def save(self, books: Mapping[str, tuple[object, MetricBook]]) -> Collection[str]:
        """Store the books of entities; return those that are gone."""

    async def existing(self, entity_ids: Collection[str]) -> Mapping[str, object]:
        """Return what identifies the document of each of these entities that exists."""


@dataclass
class _Bot:
    """One bot: *entity* is None until what is stored of it is loaded."""

    segment: int
    book: MetricBook
    entity: object = None
    lines: deque[tuple[float, bytes]] = field(default_factory=deque)
    lines_bytes: int = 0
    changed: bool = False

    def note(self, at: float, line: bytes) -> None:
        self.lines.append((at, line))
        self.lines_bytes += len(line)
        while self.lines_bytes > LATEST_BYTES:
            self.lines_bytes -= len(self.lines.popleft()[1])

    def read_lines(self) -> None:
        while self.lines:
            at, line = self.lines.popleft()
            self.lines_bytes -= len(line)
            sample = sample_in(line, at)
            if sample is not None:
                self.book.add(sample)
                self.changed = True


class BotMetrics:
    """The metrics of the bots of one worker.

    Args:
        owns: whether this worker owns a segment now.
        most_names: maximum number of metrics of one bot.
    """

    def __init__(
        self,
        store: MetricsStore,
        *,
        owns: Callable[[int], bool],
        most_names: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._owns = owns
        self._most_names = most_names
        self._clock = clock
        self._bots: dict[str, _Bot] = {}
        self._looked_at = clock()

    def note(self, container: ManagedContainer, at: float, line: bytes) -> None:
        """Note a line of *container* that may be a metric, printed at *at* (Unix seconds)."""
        if len(line) > LINE_BYTES:
            return
        bot = self._bots.get(container.id)
        if bot is None:
            bot = self._bots[container.id] = _Bot(container.segment, MetricBook(self._most_names))
        bot.segment = container.segment
        bot.note(at, line)

    async def run(self) -> None:
        """Store new values every few seconds, forever, and once more at the end."""
        try:
            await repeat("store metrics of bots", self.store_once, STORE_SECONDS)
        finally:
            try:
                async with asyncio.timeout(_LAST_SECONDS):
                    await self.store_once()
            except (RuntimeFault, TimeoutError) as error:
                log.info("the latest metrics of bots are not stored", reason=str(error))

    async def store_once(self) -> None:
        """Store what is new, and forget bots that are gone or have another owner.

        Raises:
            Retryable: the store is unavailable; the values are kept.
        """
        for bot in list(self._bots.values()):
            bot.read_lines()
            # A hundred bots that print nothing else would hold up the event loop for half a second.
            await asyncio.sleep(0)
        await self._load()
        changed = {key: bot for key, bot in self._bots.items() if bot.changed and bot.entity is not None}
        for bot in changed.values():
            bot.changed = False
            bot.book.forget_old()
        try:
            gone = await self._store.save({key: (bot.entity, bot.book) for key, bot in changed.items()})
        except BaseException:
            for bot in changed.values():
                bot.changed = True
            raise
        self._forget(gone)
        # After the save: this worker also stores the last values of a segment that it has just released.
        self._forget([key for key, bot in self._bots.items() if not self._owns(bot.segment)])
        await self._look()

    def values(self) -> dict[tuple[str, ...], float]:
        """Return the values of the bots of owned segments as of the last round, by bot and metric."""
        found: dict[tuple[str, ...], float] = {}
        for key, bot in self._bots.items():
            if bot.entity is not None and self._owns(bot.segment):
                label = label_of(key)
                found |= {(label, name): value for name, value in bot.book.values().items()}
        return found

    async def _load(self) -> None:
        """Continue what an earlier worker stored of bots that are new here."""
        unknown = [key for key, bot in self._bots.items() if bot.entity is None]
        if not unknown:
            return
        stored = await self._store.load(unknown)
        for key in unknown:
            if key not in stored:
                self._forget([key])
                continue
            bot = self._bots[key]
            bot.entity = stored[key].entity
            book = stored[key].book
            if book is not None:
                bot.book.continue_from(book)

    async def _look(self) -> None:
        """Forget the bots that were removed, also those that print nothing."""
        if self._bots and self._clock() - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = self._clock()
            present = await self._store.existing(list(self._bots))
            self._forget([key for key, bot in self._bots.items() if present.get(key, bot) != bot.entity])

    def _forget(self, keys: Collection[str]) -> None:
        for key in keys:
            self._bots.pop(key, None)


class BotValues(Collector):
    """The latest values, as a metric. Register it once a process."""

    def __init__(self, metrics: BotMetrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterator[Metric]:
        """Return the metric without values."""
        yield VALUE.of(None)

    def collect(self) -> Iterator[Metric]:
        """Return the metric with its values."""
        yield VALUE.of(self._metrics.values())


def label_of(entity_id: str) -> str:
    """Return an id as a label: a long one is cut, and keeps a digest of the whole."""
    text = entity_id.encode("utf-8", "replace").decode()
    if len(text) <= _ID_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{text[: _ID_CHARACTERS - 17]}~{digest}"
