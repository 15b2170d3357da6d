"""What happened during a run, as values: copies and their ticks, faults, events, outcomes, and the state at the end.

All times are seconds of the kernel's monotonic clock, which every process and container of one machine shares.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Copy:
    """One container in which an entity's code ran.

    Attributes:
        ticks: when its code reported that it runs, in order; at least one.
        number: of the version of the config that it ran with; later versions have higher ones.
    """

    entity_id: str
    container_id: str
    engine: str
    ticks: tuple[float, ...]
    number: int = 0

    @property
    def began(self) -> float:
        """The first tick."""
        return self.ticks[0]

    @property
    def ended(self) -> float:
        """The last tick."""
        return self.ticks[-1]


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
    """

    documents: Mapping[str, int] = field(default_factory=dict)
    live: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    open_runs: tuple[RunView, ...] = ()
    counted: Mapping[str, int] = field(default_factory=dict)
    present: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Timeline:
    """One run of the world.

    Attributes:
        watched: the bots that have to run all the time, with the times from and until which.
        workers: those that can run bots when nothing is broken.
        settled: the state after the last fault, with all bots in place.
        leftovers: containers of entities that exist after everything was deleted.
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
    firings: tuple[RunView, ...] = ()
    settled: State = State()
    leftovers: tuple[str, ...] = ()


def copies_in(lines: Iterable[str]) -> tuple[Copy, ...]:
    """Return the copies in the observer's *lines*; the last line may be unfinished."""
    heads: dict[str, Mapping[str, Any]] = {}
    ticks: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        if not line.endswith("\n"):
            break
        record = json.loads(line)
        if "entity" in record:
            heads[record["container"]] = record
        ticks[record["container"]] += record.get("ticks", ())
    return tuple(
        Copy(head["entity"], container, head["engine"], tuple(sorted(ticks[container])), head["number"])
        for container, head in heads.items()
        if ticks[container]
    )


def read_copies(path: Path) -> tuple[Copy, ...]:
    """Return the copies in the observer's file."""
    if not path.exists():
        return ()
    with path.open() as file:
        return copies_in(file)
