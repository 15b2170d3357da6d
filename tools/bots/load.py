"""Generate load: create many small entities at a constant rate, and remove them likewise or when interrupted."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from libs.core.errors import Retryable
from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, BOT_SCHEDULER, ServiceDefinition
from tools.bots.announce import Deployment
from tools.cli.interrupts import uninterrupted

BOT = Path(__file__).parent / "load_bot"
"""The folder of the bot that does as little as a bot can."""
_MAX_FAILURES_IN_A_ROW = 10


class Kind(StrEnum):
    """The kind of entity."""

    BOTS = "bots"
    BACKTESTS = "backtests"
    SCHEDULES = "schedules"

    @property
    def service(self) -> ServiceDefinition:
        """The service of the kind."""
        return {Kind.BOTS: BOT_RUNNER, Kind.BACKTESTS: BACKTEST_RUNNER, Kind.SCHEDULES: BOT_SCHEDULER}[self]


@dataclass(frozen=True)
class Load:
    """One run of the generator. Backtests end by themselves and are not removed.

    Attributes:
        run: part of every id; the same run and number give the same entity.
        count: total number of entities.
        per_second: events per second, during ramp up and ramp down.
        hold_seconds: time from the last creation to the first removal.
        run_seconds: duration of a backtest or of one firing of a schedule.
        schedule: the cron expression of schedules.
    """

    kind: Kind
    run: str
    count: int
    per_second: float
    hold_seconds: float
    run_seconds: float = 10.0
    schedule: str = "@every 60s"

    def id_of(self, number: int) -> str:
        """Return the entity's id."""
        return f"load-{self.run}-{number:05d}"

    def config(self) -> dict[str, Any]:
        """The config of each entity."""
        if self.kind is Kind.BOTS:
            return {"run_seconds": None, "interval_seconds": 5}
        interval = min(1.0, self.run_seconds)
        config: dict[str, Any] = {"run_seconds": self.run_seconds, "interval_seconds": interval}
        if self.kind is Kind.SCHEDULES:
            config["schedule"] = self.schedule
        return config


@dataclass(frozen=True)
class Step:
    """A creation or a removal at its time, in seconds from the beginning."""

    at_seconds: float
    creates: bool
    number: int


def steps(load: Load) -> Iterator[Step]:
    """Yield all events in order: creations at a constant rate, a pause, removals in the same order at the same rate."""
    for number in range(load.count):
        yield Step(number / load.per_second, True, number)
    if load.kind is Kind.BACKTESTS:
        return
    down_seconds = (load.count - 1) / load.per_second + load.hold_seconds
    for number in range(load.count):
        yield Step(down_seconds + number / load.per_second, False, number)


class Publisher(Protocol):
    """The target of events; implemented by `Announcer`."""

    async def created(self, deployed: Deployment) -> None: ...
    async def deleted(self, entity_id: str, config: dict[str, object]) -> None: ...


@dataclass
class Progress:
    """The progress. *behind_seconds* is the delay of the last event: above zero, the rate is not reached."""

    created: int = 0
    removed: int = 0
    failed: int = 0
    seconds: float = 0.0
    behind_seconds: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Return it as JSON."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


class Driver:
    """One run of a load.

    Args:
        deploy: creates entity number n for its announcement.
        report: called after each event.
    """

    def __init__(
        self,
        load: Load,
        publisher: Publisher,
        deploy: Callable[[int], Deployment],
        report: Callable[[Progress], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.progress = Progress()
        self._load = load
        self._publisher = publisher
        self._deploy = deploy
        self._report = report
        self._sleep = sleep
        self._clock = clock
        self._present: set[int] = set()
        self._failures = 0

    async def run(self) -> Progress:
        """Publish everything. If interrupted, remove the created entities (backtests end by themselves) first.

        Raises:
            Retryable: the last ten events could not be published.
        """
        begun = self._clock()
        try:
            for step in steps(self._load):
                await self._sleep(max(0.0, begun + step.at_seconds - self._clock()))
                self.progress.behind_seconds = max(0.0, self._clock() - begun - step.at_seconds)
                await self._publish(step.number, creates=step.creates)
                self.progress.seconds = self._clock() - begun
                self._report(self.progress)
        finally:
            if self._present:
                await uninterrupted(self.remove_all())
        return self.progress

    async def remove_all(self) -> None:
        """Remove the remaining entities, without a rate limit."""
        for number in sorted(self._present):
            await self._publish(number, creates=False)

    async def _publish(self, number: int, *, creates: bool) -> None:
        if creates and self._load.kind.service.deleted_subject is not None:
            # Before the call: if its answer is lost, it may have happened.
            self._present.add(number)
        try:
            if creates:
                await self._publisher.created(self._deploy(number))
            else:
                await self._publisher.deleted(self._load.id_of(number), self._load.config())
        except Retryable:
            self.progress.failed += 1
            self._failures += 1
            if self._failures >= _MAX_FAILURES_IN_A_ROW:
                # The rest cannot be removed either; `remove` does it when the server is back.
                self._present.clear()
                raise
            return
        self._failures = 0
        if creates:
            self.progress.created += 1
        else:
            self.progress.removed += 1
            self._present.discard(number)
