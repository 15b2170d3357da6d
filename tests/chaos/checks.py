"""The laws, each as a pure function over the timeline of a run that returns its violations.

A check trusts only what was seen from outside the system: ticks by the kernel's clock, acknowledgements, engines,
MongoDB's documents.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from tests.chaos.timeline import Completion, Copy, FaultSpan, Published, Timeline

K = TypeVar("K")
V = TypeVar("V")

RECOVERY_SECONDS = 10.0
SAVED_SECONDS = 6.0
"""Within which a change of a bot's state is saved: 4 s, and the time of the write."""
_MOST_SLOWNESS_OF_STOP = 2.0
"""A slower machine may not pack the last state within a stop's grace."""
_NOTICED_SECONDS = 1.0
"""Between ticks: less is a busy machine's delay, not a bot that is down."""


@dataclass(frozen=True)
class Gap:
    """A bot that did not run from *began* to *ended*; *countable_seconds* with a healthy worker, without a break."""

    bot_id: str
    began: float
    ended: float
    countable_seconds: float

    @property
    def seconds(self) -> float:
        """Its duration."""
        return self.ended - self.began


def two_live_copies(timeline: Timeline) -> list[str]:
    """No two copies of an entity run at one instant."""
    violations = []
    for entity_id, copies in _by_entity(timeline.copies).items():
        latest = copies[0]
        for copy in copies[1:]:
            if copy.began < latest.ended:
                seconds = min(copy.ended, latest.ended) - copy.began
                violations.append(
                    f"{entity_id}: {_where(latest)} and {_where(copy)} both ran for {seconds:.2f} s "
                    f"from {copy.began - timeline.began:.1f} s on"
                )
            latest = max(latest, copy, key=lambda one: one.ended)
    return violations


def recovery(timeline: Timeline, limit_seconds: float = RECOVERY_SECONDS) -> list[str]:
    """A bot is back within the limit, while a healthy worker exists.

    The limit is multiplied by how slow the machine was meanwhile, as the observer felt it: on a machine that gives a
    process a third of its time, everything takes three times as long.
    """
    violations = []
    for gap in gaps(timeline):
        slowness = timeline.slowness_between(gap.began, gap.ended)
        if gap.countable_seconds > limit_seconds * slowness:
            violations.append(
                f"{gap.bot_id}: down for {gap.seconds:.1f} s from {gap.began - timeline.began:.1f} s on, "
                f"{gap.countable_seconds:.1f} s of it with a healthy worker, on a machine {slowness:.1f} times too slow"
            )
    return violations


def gaps(timeline: Timeline) -> list[Gap]:
    """Return when watched bots did not run, in order of time."""
    blocked = blocked_times(timeline)
    by_entity = _by_entity(timeline.copies)
    found = []
    for bot_id, (since, until) in timeline.watched.items():
        ticks = sorted(tick for copy in by_entity.get(bot_id, ()) for tick in copy.ticks if since < tick < until)
        for before, after in pairwise([since, *ticks, until]):
            if after - before > _NOTICED_SECONDS:
                found.append(Gap(bot_id, before, after, _longest_free(before, after, blocked)))
    return sorted(found, key=lambda gap: gap.began)


def blocked_times(timeline: Timeline) -> list[tuple[float, float]]:
    """Return the times without a healthy worker, in order and apart."""
    edges = sorted({time for fault in timeline.faults for time in (fault.began, fault.ended)})
    blocked: list[tuple[float, float]] = []
    for begin, end in pairwise(edges):
        active = [fault for fault in timeline.faults if fault.began <= begin and end <= fault.ended]
        if _is_blocked(active, timeline.workers):
            if blocked and blocked[-1][1] == begin:
                begin = blocked.pop()[0]
            blocked.append((begin, end))
    return blocked


def agreement(timeline: Timeline) -> list[str]:
    """Each document has one running container and one open run, and neither has more."""
    state = timeline.settled
    violations = []
    for bot_id in sorted({*state.documents, *state.live}):
        live = state.live.get(bot_id, ())
        wanted = 1 if bot_id in state.documents else 0
        if len(live) != wanted:
            violations.append(f"{bot_id}: {len(live)} running containers, {wanted} documents")
    for bot_id, runs in _grouped(state.open_runs, lambda run: run.entity_id).items():
        if len(runs) > 1 or runs[0].container_id not in state.live.get(bot_id, ()):
            violations.append(f"{bot_id}: {len(runs)} open runs, containers {sorted(state.live.get(bot_id, ()))}")
    recorded = {run.entity_id for run in state.open_runs}
    violations += [f"{bot_id}: runs without a record" for bot_id in sorted({*state.live} - recorded)]
    return violations


def bot_count(timeline: Timeline) -> list[str]:
    """`bot_count` of each partition is the number of its documents."""
    counted, present = timeline.settled.counted, timeline.settled.present
    return [
        f"partition {name}: bot_count {counted.get(name, 0)}, {present.get(name, 0)} documents"
        for name in sorted({*counted, *present})
        if counted.get(name, 0) != present.get(name, 0)
    ]


def nothing_stray(timeline: Timeline) -> list[str]:
    """No container is left after everything was deleted."""
    return [f"left over: {leftover}" for leftover in timeline.leftovers]


def one_run_per_firing(timeline: Timeline) -> list[str]:
    """A firing has one record for each attempt, and each record at most one container that ran.

    A record of a worker that died during the start names no container: it accounts for one that no record names.
    """
    violations = []
    for (entity_id, firing), runs in _grouped(timeline.firings, lambda run: (run.entity_id, run.firing)).items():
        if len(runs) > 1:
            violations.append(f"{entity_id}: {len(runs)} runs of the firing {firing}")
    recorded = {run.container_id for run in timeline.firings}
    copies = _by_entity(timeline.copies)
    for entity_id, runs in _grouped(timeline.firings, lambda run: run.entity_id).items():
        unnamed = sum(not run.container_id for run in runs)
        unrecorded = [copy for copy in copies.get(entity_id, ()) if copy.container_id not in recorded]
        if len(unrecorded) > unnamed:
            where = ", ".join(map(_where, unrecorded))
            violations.append(f"{entity_id}: {where} ran, and {unnamed} records name no container")
    return violations


def one_outcome_per_backtest(timeline: Timeline) -> list[str]:
    """Each backtest has a completion event, repeated ones say the same, and its result was stored before."""
    completions = _grouped(timeline.completions, lambda completion: completion.backtest_id)
    violations = []
    for backtest_id in sorted({*timeline.backtests, *completions}):
        found: list[Completion] = completions.get(backtest_id, [])
        outcomes = {completion.outcome for completion in found}
        if not found:
            violations.append(f"{backtest_id}: no completion event")
        if len(outcomes) > 1:
            violations.append(f"{backtest_id}: {len(outcomes)} different outcomes")
        if any(not completion.result_stored for completion in found):
            violations.append(f"{backtest_id}: its event arrived before its result was stored")
    return violations


def one_notification_per_backtest(timeline: Timeline) -> list[str]:
    """Each backtest is reported to its webhook once."""
    counts = Counter(timeline.notified)
    return [f"{one}: {counts[one]} notifications" for one in timeline.backtests if counts[one] != 1]


def no_event_lost(timeline: Timeline) -> list[str]:
    """The documents show the last acknowledged event of each bot."""
    violations = []
    for bot_id, events in _grouped(timeline.published, lambda event: event.entity_id).items():
        last: Published = max(events, key=lambda event: event.at)
        stored = timeline.settled.documents.get(bot_id)
        expected = None if last.kind == "deleted" else last.number
        if stored != expected:
            violations.append(f"{bot_id}: version {stored} is stored, {last.kind} with {expected} was acknowledged")
    return violations


def state_kept(timeline: Timeline) -> list[str]:
    """A copy begins with the state of the one before it, but for what a fault kept from being saved.

    That also shows a former owner that overwrites the state: a later copy begins with less than what was saved.
    """
    violations = []
    for entity_id, copies in _by_entity(timeline.copies).items():
        for before, copy in pairwise(one for one in copies if one.counts):
            until = _saved_until(before, timeline)
            saved = max((n for at, n in zip(before.ticks, before.counts, strict=False) if at <= until), default=0)
            if (copy.restored or 0) < max(saved, before.restored or 0):
                violations.append(
                    f"{entity_id}: {_where(copy)} began at {copy.began - timeline.began:.1f} s with the count "
                    f"{copy.restored}; {_where(before)} began with {before.restored}, had written {saved} "
                    f"{before.ended - until:.1f} s before its end, and {before.counts[-1]} at it"
                )
    return violations


def metrics_stored(timeline: Timeline) -> list[str]:
    """What bots have printed as a metric since the last fault is stored."""
    since = max((fault.ended for fault in timeline.faults), default=timeline.began)
    violations = []
    for entity_id, copies in _by_entity(timeline.copies).items():
        if not any(copy.counts for copy in copies):
            continue
        counted = [n for copy in copies for at, n in zip(copy.ticks, copy.counts, strict=False) if at >= since]
        stored = timeline.settled.metrics.get(entity_id, 0.0)
        if not counted:
            # While the run settles: the observer's file does not have its next tick yet.
            violations.append(f"{entity_id}: has not counted since the last fault")
        elif stored < counted[0]:
            violations.append(
                f"{entity_id}: the metric {stored:g} is stored, {counted[0]} was counted at the last fault"
            )
    return violations


def _saved_until(copy: Copy, timeline: Timeline) -> float:
    """Return until when all that *copy* wrote must have been saved: its end, or some time before a fault."""
    slowness = max(1.0, timeline.slowness_between(copy.ended - SAVED_SECONDS, copy.ended + 1.0))
    delay = SAVED_SECONDS * slowness
    saved, end = copy.ended, copy.ended
    if slowness > _MOST_SLOWNESS_OF_STOP:
        saved -= delay
    # Faults may follow one another without a pause.
    for fault in sorted(timeline.faults, key=lambda one: one.began, reverse=True):
        if fault.began <= end <= fault.ended + delay:
            end = fault.began
            saved = min(saved, fault.began - delay)
    return saved


CHECKS: Mapping[str, Callable[[Timeline], list[str]]] = {
    "no two live copies": two_live_copies,
    "back in time": recovery,
    "documents, records and engines agree": agreement,
    "bot_count is true": bot_count,
    "nothing stray": nothing_stray,
    "one run per firing": one_run_per_firing,
    "one outcome per backtest": one_outcome_per_backtest,
    "one notification per backtest": one_notification_per_backtest,
    "no acknowledged event lost": no_event_lost,
    "state is kept": state_kept,
    "metrics are stored": metrics_stored,
}


def _is_blocked(active: Iterable[FaultSpan], workers: frozenset[str]) -> bool:
    active = list(active)
    unfit = frozenset[str]().union(*(fault.unfit for fault in active))
    return any(fault.blocks for fault in active) or workers <= unfit


def _longest_free(begin: float, end: float, blocked: Iterable[tuple[float, float]]) -> float:
    longest, at = 0.0, begin
    for since, until in blocked:
        if since < end and until > begin:
            longest = max(longest, since - at)
            at = max(at, until)
    return max(longest, end - at)


def _by_entity(copies: Iterable[Copy]) -> dict[str, list[Copy]]:
    grouped = defaultdict(list)
    for copy in sorted(copies, key=lambda one: one.began):
        grouped[copy.entity_id].append(copy)
    return grouped


def _grouped(values: Iterable[V], key: Callable[[V], K]) -> dict[K, list[V]]:
    grouped = defaultdict(list)
    for value in values:
        grouped[key(value)].append(value)
    return grouped


def _where(copy: Copy) -> str:
    return f"{copy.container_id[:12]} on {copy.engine}"
