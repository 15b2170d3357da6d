"""What happened during a run, as values: copies and their ticks, faults, events, outcomes, and the state at the end.

All times are seconds of the kernel's monotonic clock, which every process and container of one machine shares.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Copy:
    """One container in which an entity's code ran.

    Attributes:
        ticks: when its code reported that it runs, in order; at least one.
        number: of the version of the config that it ran with; later versions have higher ones.
        restored: the count in its state when it began; None for a bot without one.
        counts: the count in its state at each tick.
    """

    entity_id: str
    container_id: str
    engine: str
    ticks: tuple[float, ...]
    number: int = 0
    restored: int | None = None
    counts: tuple[int, ...] = ()

    @property
    def began(self) -> float:
        """The first tick."""
        return self.ticks[0]

    @property
    def ended(self) -> float:
        """The last tick."""
        return self.ticks[-1]


@dataclass(frozen=True)
class Slowness:
    """How many times longer than its processor time the observer's work took at one time; 1 on an idle machine."""

    at: float
    factor: float


@dataclass(frozen=True)
class FaultSpan:
    """A fault from its beginning until what it broke is repaired.

    Attributes:
        unfit: workers that cannot run bots meanwhile.
        blocks: whether no worker at all can be expected to start a bot meanwhile.
    """

    name: str
    began: float
    ended: float
    unfit: frozenset[str] = frozenset()
    blocks: bool = False


@dataclass(frozen=True)
class Published:
    """An event that the platform published for a bot, and that the stream acknowledged at *at*.

    Attributes:
        kind: `created`, `updated` or `deleted`.
        number: of the version in its config.
    """

    at: float
    kind: str
    entity_id: str
    number: int = 0


@dataclass(frozen=True)
class Completion:
    """A completion event of a backtest, as a core subscriber received it.

    Attributes:
        outcome: what it says, and the stored result, as one text.
        result_stored: whether result and output could be read when the event arrived.
    """

    at: float
    backtest_id: str
    outcome: str
    result_stored: bool


@dataclass(frozen=True)
class RunView:
    """A record of a run; *firing* is the due time and the attempt of a schedule's run, empty otherwise."""

    run_id: str
    entity_id: str
    container_id: str
    is_open: bool
    firing: str = ""


@dataclass(frozen=True)
class State:
    """MongoDB, records and engines at one time.

    Attributes:
        documents: the bots' documents: the number of the version, by bot.
        live: the ids of running containers, by bot.
        open_runs: the bots' runs without an end.
        counted: `bot_count` of each partition of each service.
        present: documents in each of these partitions.
        metrics: the stored count of each bot that prints one.
    """

    documents: Mapping[str, int] = field(default_factory=dict)
    live: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    open_runs: tuple[RunView, ...] = ()
    counted: Mapping[str, int] = field(default_factory=dict)
    present: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Timeline:
    """One run of the world.

    Attributes:
        watched: the bots that have to run all the time, with the times from and until which.
        workers: those that can run bots when nothing is broken.
        notified: the backtest of each notification.
        settled: the state after the last fault, with all bots in place.
        leftovers: containers of entities that exist after everything was deleted.
        slowness: how slow the machine was, as the observer felt it, in order of time.
    """

    began: float
    ended: float
    workers: frozenset[str]
    copies: tuple[Copy, ...] = ()
    faults: tuple[FaultSpan, ...] = ()
    watched: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    backtests: tuple[str, ...] = ()
    completions: tuple[Completion, ...] = ()
    notified: tuple[str, ...] = ()
    firings: tuple[RunView, ...] = ()
    settled: State = State()
    leftovers: tuple[str, ...] = ()
    slowness: tuple[Slowness, ...] = ()

    def slowness_between(self, began: float, ended: float) -> float:
        """Return the mean of the factors in that time; 1 without any."""
        factors = [one.factor for one in self.slowness if began <= one.at <= ended]
        return sum(factors) / len(factors) if factors else 1.0
