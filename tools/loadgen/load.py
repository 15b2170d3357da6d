"""What comes and goes when, decided beforehand: a ramp up, a plateau, a ramp down."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, BOT_SCHEDULER, ServiceDefinition


class Kind(StrEnum):
    """What is made."""

    BOTS = "bots"
    BACKTESTS = "backtests"
    SCHEDULES = "schedules"

    @property
    def service(self) -> ServiceDefinition:
        """The service that it is for."""
        return {Kind.BOTS: BOT_RUNNER, Kind.BACKTESTS: BACKTEST_RUNNER, Kind.SCHEDULES: BOT_SCHEDULER}[self]


class Action(StrEnum):
    """One event."""

    CREATE = "create"
    REMOVE = "remove"


@dataclass(frozen=True)
class Load:
    """One run of the generator. Backtests end by themselves and are not removed.

    Attributes:
        run: part of every id; the same run and number is the same entity.
        count: entities in all.
        per_second: events a second, on the way up and on the way down.
        hold_seconds: from the last creation to the first removal.
        run_seconds: how long a backtest or one firing of a schedule takes.
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
        """The entity's id."""
        return f"load-{self.run}-{number:05d}"

    def config(self) -> dict[str, Any]:
        """What each entity is started with."""
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
    """All events in order: creations at an even pace, a pause, removals in the same order at the same pace."""
    for number in range(load.count):
        yield Step(number / load.per_second, Action.CREATE, number)
    if load.kind is Kind.BACKTESTS:
        return
    down_seconds = (load.count - 1) / load.per_second + load.hold_seconds
    for number in range(load.count):
        yield Step(down_seconds + number / load.per_second, Action.REMOVE, number)
