"""One run of the world: faults one after another under a flow of events, then peace, then the checks."""

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence, Sized
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pymongo.errors import PyMongoError

from tests.chaos import observer as observer_process
from tests.chaos.checks import agreement, bot_count, metrics_stored, no_event_lost
from tests.chaos.faults import PausedBeyondLease, catalogue
from tests.chaos.reading import Observations
from tests.chaos.snapshot import containers, firings, notified, state_of, unfinished_backtests
from tests.chaos.timeline import FaultSpan, State, Timeline
from tests.chaos.workload import WATCHED, Workload
from tests.chaos.world import World
from tests.support.eventually import eventually
from tools.stack.process import BackgroundProcess

FLOW_TASK = "flow of events"
_SETTLED_SECONDS = 120.0
_FRESH_SECONDS = 1.0
_POLL_SECONDS = 0.3
_REPAIRED_SECONDS = 60.0


@dataclass
class Run:
    """One run.

    Args:
        hold_seconds: how long a fault lasts.
    """

    world: World
    observations: Observations
    chance: random.Random
    hold_seconds: float
    faults: list[FaultSpan] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)

    async def through(self, rounds: Iterable[Sequence[str]], until: float) -> Timeline:
        """Let faults happen, one round after another, and return what happened.

        Args:
            rounds: names of faults that happen together.
            until: no round begins after this time.
        """
        workload = Workload(self.world, self.chance, self.observations)
        await workload.open()
        await eventually(self._all_tick, _SETTLED_SECONDS, _POLL_SECONDS)
        began = time.monotonic()
        flow = asyncio.create_task(workload.flow(), name=FLOW_TASK)
        try:
            for names in rounds:
                if time.monotonic() > until:
                    break
                await self._round(names)
                if flow.done():
                    flow.result()
        finally:
            flow.cancel()
            await asyncio.wait([flow])
        timeline = Timeline(
            began=began,
            ended=time.monotonic(),
            workers=frozenset(one.name for one in self.world.workers()),
            faults=tuple(self.faults),
            published=tuple(workload.published),
        )
        settled = await self._settled(timeline)
        ended = time.monotonic()
        await self._finished()
        found, reported = await firings(self.world), await notified(self.world)
        await workload.close()
        await workload.delete_all()
        leftovers = await self._leftovers()
        self.observations.read()
        return replace(
            timeline,
            ended=ended,
            copies=self.observations.copies,
            slowness=self.observations.slowness,
            watched=dict.fromkeys(WATCHED, (began, ended)),
            backtests=tuple(workload.backtests),
            completions=tuple(workload.completions),
            notified=reported,
            firings=found,
            settled=settled,
            leftovers=leftovers,
        )

    async def _round(self, names: Sequence[str]) -> None:
        """Begin these faults, keep them for a while, end them, and wait until bots and processes are well again."""
        # A catalogue for each: they may have different targets.
        chosen = [one for name in names for one in catalogue(self.world, self.chance) if one.name == name]
        # Needs an engine that answers, at its beginning and at its end.
        chosen.sort(key=lambda fault: not isinstance(fault, PausedBeyondLease))
        if len(chosen) < len(names):
            print(f"left out, since libfaketime is not installed: {' + '.join(names)}", flush=True)
            return
        began = time.monotonic()
        said = ", ".join(f"{fault.name} ({', '.join(sorted(fault.unfit)) or 'no worker'})" for fault in chosen)
        print(said, flush=True)
        for fault in chosen:
            await fault.begin(self.world)
        await asyncio.sleep(self.hold_seconds)
        self.loads.append(os.getloadavg()[0])
        for fault in reversed(chosen):
            await fault.end(self.world)
        await self._repaired()
        self.faults += [FaultSpan(one.name, began, time.monotonic(), one.unfit, one.blocks) for one in chosen]
        try:
            await eventually(self._all_tick, _SETTLED_SECONDS, _POLL_SECONDS)
        except AssertionError as error:
            # The checks report it.
            print(error, flush=True)

    async def _repaired(self) -> None:
        """Return when all processes are ready: those that were started again need a moment."""
        until = time.monotonic() + _REPAIRED_SECONDS
        while time.monotonic() < until:
            if all(await asyncio.gather(*(one.is_ready() for one in self.world.processes.values()))):
                return
            await asyncio.sleep(0.2)

    def _all_tick(self) -> bool:
        self.observations.read()
        latest, now = self.observations.latest_ticks, time.monotonic()
        return all(now - latest.get(bot_id, 0.0) < _FRESH_SECONDS for bot_id in WATCHED)

    async def _settled(self, timeline: Timeline) -> State:
        """Return the state, as soon as it is right; after a time limit as it is."""
        until = time.monotonic() + _SETTLED_SECONDS
        while True:
            try:
                state = await state_of(self.world)
            except PyMongoError:
                state = State()
            self.observations.read()
            seen = replace(timeline, settled=state, copies=self.observations.copies)
            wrong = agreement(seen) or bot_count(seen) or no_event_lost(seen) or metrics_stored(seen)
            if not wrong or time.monotonic() > until:
                return state
            await asyncio.sleep(_POLL_SECONDS)

    async def _finished(self) -> None:
        """Wait for the backtests."""
        with suppress(AssertionError):  # the checks report it
            await eventually(lambda: _none(unfinished_backtests(self.world)), _SETTLED_SECONDS, _POLL_SECONDS)

    async def _leftovers(self) -> tuple[str, ...]:
        """Return what exists although all was deleted, after a time limit."""
        with suppress(AssertionError):
            await eventually(lambda: _none(containers(self.world)), _SETTLED_SECONDS, _POLL_SECONDS)
        found = await containers(self.world)
        return tuple(f"{entity_id}, container {container[:12]} on {engine}" for entity_id, container, engine in found)


@asynccontextmanager
async def observed(world: World, output: Path) -> AsyncIterator[None]:
    """Run the observer, whose file is *output*.

    Raises:
        ProcessFailedError: it ended; with the end of its log.
    """
    engines = [f"{name}={engine.folder}" for name, engine in world.engines.items()]
    command: list[str | Path] = [sys.executable, "-P", "-m", observer_process.__name__, output, *engines]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    observer = BackgroundProcess("observer", command, output.with_suffix(".log"), environment)
    observer.launch()
    try:
        await eventually(lambda: output.exists() or not observer.running)
        if not observer.running:
            raise observer.failure("ended")
        yield
        if not observer.running:
            raise observer.failure("ended")
    finally:
        await observer.stop()


async def _none(question: Awaitable[Sized | int]) -> bool:
    """Whether the answer is empty or zero."""
    return not await question
