"""The schedule of a load, computed in advance: ramp up, plateau, ramp down."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, BOT_SCHEDULER, ServiceDefinition


class Kind(StrEnum):
    """The kind of entity."""

    BOTS = "bots"
    BACKTESTS = "backtests"
    SCHEDULES = "schedules"

    @property
    def service(self) -> ServiceDefinition:
        """The service of the kind."""
        return {Kind.BOTS: BOT_RUNNER, Kind.BACKTESTS: BACKTEST_RUNNER, Kind.SCHEDULES: BOT_SCHEDULER}[self]


class Action(StrEnum):
    """One event."""

    CREATE = "create"
    REMOVE = "remove"


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
    """One event at its time, in seconds from the beginning."""

    at_seconds: float
    action: Action
    number: int


def steps(load: Load) -> Iterator[Step]:
    """Yield all events in order: creations at a constant rate, a pause, removals in the same order at the same rate."""
    for number in range(load.count):
        yield Step(number / load.per_second, Action.CREATE, number)
    if load.kind is Kind.BACKTESTS:
        return
    down_seconds = (load.count - 1) / load.per_second + load.hold_seconds
    for number in range(load.count):
        yield Step(down_seconds + number / load.per_second, Action.REMOVE, number)
