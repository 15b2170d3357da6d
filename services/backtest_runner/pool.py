"""The backtests of one owned segment: as many at once as there are slots."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum

from libs.core.errors import UserError
from libs.core.observability.tracing import outside
from libs.core.process.isolation import isolated, repeat, unexpected
from libs.core.room import Demand
from libs.core.store.entities import Entity, EntityStore
from libs.core.store.owner_quotas import LOOK_SECONDS
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.engine.room import RoomRequest, Shortage
from libs.docker_runner.engine.room_view import WAITING_CHECK_SECONDS, WaitingForRoom
from services.backtest_runner.attempt import BacktestKit
from services.backtest_runner.run import BacktestRun
from services.backtest_runner.slots import Slots
from services.backtest_runner.state import BacktestState

_LONGEST_RETRY_SECONDS = 5.0
# Delay before a backtest without room is tried again, if the engine seems to have room.
_REFUSED_SECONDS = 0.2


class PoolState(StrEnum):
    """The state of a backtest."""

    WAITING = "waiting"  # for a slot, for room, or for the quota of its owner
    STARTING = "starting"  # in a slot, without a container: the first attempt or another
    RUNNING = "running"
    FINISHING = "finishing"  # it has ended and is being completed
    HELD = "held"  # by a hold or its config


class SegmentPool:
    """Runs one segment's backtests until it is cancelled.

    Args:
        slots: limits the concurrent backtests of this pool and others of the worker. Backtests that are being completed
            take no slot, but their number is limited too.
    """

    def __init__(
        self,
        owned: OwnedSegment,
        *,
        kit: BacktestKit,
        entities: EntityStore,
        slots: Slots,
        scan_interval_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._owned = owned
        self._kit = kit
        self._entities = entities
        self._most_in_hand = 4 * slots.size
        self._slots = slots
        self._scan_interval = scan_interval_seconds
        self._clock = clock
        self._waiting: list[BacktestState] = []
        self._lacking = WaitingForRoom(kit.engine.room, owned.wake)
        self._in_hand: dict[str, BacktestRun] = {}
        # When each that its owner's quota did not permit is tried again.
        self._over_quota: dict[str, float] = {}
        self._held = 0

    @property
    def running(self) -> int:
        """How many have a container."""
        return sum(run.has_container for run in self._in_hand.values())

    async def run(self) -> None:
        """Run them, forever. While the database is down, running backtests continue."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._slots.join(self, lambda: self._refill(tasks))
                try:
                    await repeat(
                        "read backtests",
                        lambda: self.read_once(tasks),
                        self._scan_interval,
                        wake=self._owned.wake,
                        longest_retry_seconds=_LONGEST_RETRY_SECONDS,
                        operation="backtests",
                    )
                finally:
                    self._slots.leave(self)
        finally:
            self._lacking.become({})

    @property
    def slots_taken(self) -> int:
        """How many backtests of this pool take a slot."""
        return sum(not run.slot_left for run in self._in_hand.values())

    @property
    def next_order(self) -> tuple[bool, str] | None:
        """The sort key of the longest-waiting backtest, among all pools; None when none waits."""
        return self._waiting[0].order if self._waiting else None

    @property
    def queue_length(self) -> int:
        """How many wait for a slot."""
        return len(self._waiting)

    @property
    def queue_age_seconds(self) -> float:
        """The wait of the longest-waiting backtest for its first attempt; 0 when none waits.

        One that waits for the quota of its owner does not count.
        """
        waiting = (state for state in self._waiting if state.claim is None and state.id not in self._over_quota)
        received = (state.received_at for state in waiting if state.received_at)
        return max(0.0, self._clock() - min(received, default=self._clock()))

    def demand(self) -> Demand:
        """The need of the active backtests, and of those that have a slot but no room; fast."""
        running = [run.state for run in self._in_hand.values() if not run.slot_left]
        waiting = [state for state in self._waiting if state.id not in self._over_quota]
        wanted = [*running, *waiting[: max(0, self._slots.size - len(running))]]
        rooms = (self._room_of(state) for state in wanted)
        return Demand.of((room.need for room in rooms if room is not None), self._lacking.needs())

    def states(self) -> Mapping[str, int]:
        """Return the number of backtests in each state."""
        found = Counter(_state(run) for run in self._in_hand.values())
        found[PoolState.WAITING], found[PoolState.HELD] = len(self._waiting), self._held
        return {str(state): found[state] for state in PoolState}

    def container_changed(self, backtest_id: str) -> None:
        """Note a change of this backtest's container; "" for any of them."""
        for run_of, run in self._in_hand.items():
            if backtest_id in (run_of, ""):
                run.changed()

    async def read_once(self, tasks: asyncio.TaskGroup) -> float:
        """Read the segment, start in *tasks* the backtests with a slot and room, and return the pause.

        Raises:
            Retryable: it cannot be read; nothing was started.
        """
        in_hand = dict(self._in_hand)
        states, broken = _read(await self._entities.in_segment(self._owned.segment_id))
        for backtest_id, run in in_hand.items():
            if (entity := broken.get(backtest_id)) is not None:
                # The stored state counts, and whether it may run.
                run.update(replace(run.state, entity=entity))
            else:
                run.update(states.get(backtest_id))
        # One that ended during this read may still look runnable here; its claim fails.
        self._waiting = sorted(
            (state for state in states.values() if state.may_begin and state.id not in in_hand),
            key=lambda state: state.order,
        )
        self._held = sum(not state.may_begin for state in states.values())
        for gone in self._over_quota.keys() - states.keys():
            del self._over_quota[gone]
        self._refill(tasks)
        await self._report_waiting()
        pause = min(self._scan_interval, WAITING_CHECK_SECONDS) if self._lacking else self._scan_interval
        return min(pause, LOOK_SECONDS) if self._over_quota else pause

    def _refill(self, tasks: asyncio.TaskGroup) -> None:
        """Start those with a slot and room. One that is too large does not delay smaller ones."""
        lacking: dict[str, tuple[RoomRequest, Shortage]] = {}
        waiting, self._waiting = self._waiting, []
        for state in waiting:
            request = self._room_of(state)
            if len(self._in_hand) >= self._most_in_hand or not self._free(state) or self._is_over_quota(state):
                self._waiting.append(state)
            elif request is not None and (shortage := self._kit.engine.room.shortage(request)) is not None:
                self._waiting.append(state)
                lacking[state.id] = (request, shortage)
            elif state.id not in self._in_hand:
                self._begin(state, request, tasks)
        self._lacking.become(lacking)

    def _begin(self, state: BacktestState, request: RoomRequest | None, tasks: asyncio.TaskGroup) -> None:
        def slot_left() -> None:
            if request is not None:
                self._kit.engine.room.settle(request)
            self._slots.refill()

        run = self._in_hand[state.id] = BacktestRun(state, self._kit, on_slot_left=slot_left)
        if request is not None:
            self._kit.engine.room.expect(request)
        # Independent of the container whose end made room.
        with outside():
            tasks.create_task(self._carry_out(run, request), name=f"backtest {state.id[:40]!r}")

    def _room_of(self, state: BacktestState) -> RoomRequest | None:
        """Return its need; None for one that needs nothing more, or is about to be rejected."""
        if state.outcome is not None or state.cancelled_by is not None:
            return None
        try:
            return self._kit.executables.room(state.entity)
        except UserError:
            return None
        except Exception as error:  # noqa: BLE001 - only of this backtest, whose start will report it
            unexpected("read backtest", error, backtest=state.id)
            return None

    async def _report_waiting(self) -> None:
        states = {state.id: state for state in self._waiting}
        for backtest_id, wait in self._lacking:
            if wait.written != wait.detail and backtest_id in states:
                with isolated("report what waits"):
                    await self._kit.claims.waits(states[backtest_id], wait.detail, wait.request.need)
                wait.written = wait.detail

    def _free(self, state: BacktestState) -> bool:
        """Whether there is a slot for it, or it needs none."""
        return state.outcome is not None or self._slots.has_free

    def _is_over_quota(self, state: BacktestState) -> bool:
        """Whether it was refused recently. A cancelled one needs no place."""
        again_at = self._over_quota.get(state.id, 0.0)
        return state.cancelled_by is None and state.outcome is None and time.monotonic() < again_at

    def _note_quota(self, run: BacktestRun) -> None:
        if run.over_quota:
            self._over_quota[run.state.id] = time.monotonic() + LOOK_SECONDS
            return
        self._over_quota.pop(run.state.id, None)
        # The place of one that has ended may be another's of its owner.
        for waiting in self._over_quota:
            self._over_quota[waiting] = 0.0

    async def _carry_out(self, run: BacktestRun, request: RoomRequest | None) -> None:
        try:
            await run.carry_out()
        except Exception as error:  # noqa: BLE001 - of this backtest alone; the next reading takes it up again
            unexpected("run backtest", error, backtest=run.state.id)
        finally:
            if request is not None:
                self._kit.engine.room.settle(request)
        if run.refused:
            await asyncio.sleep(_REFUSED_SECONDS)
            self._owned.wake.set()
        self._note_quota(run)
        del self._in_hand[run.state.id]
        self._slots.refill()


def _read(entities: Sequence[Entity]) -> tuple[dict[str, BacktestState], dict[str, Entity]]:
    """Return the backtests by id, and those whose documents cannot be read."""
    states: dict[str, BacktestState] = {}
    broken: dict[str, Entity] = {}
    for entity in entities:
        try:
            states[entity.id] = BacktestState.of(entity)
        except Exception as error:  # noqa: BLE001 - one broken document must not hide the others of its segment
            unexpected("read backtest", error, backtest=entity.id)
            broken[entity.id] = entity
    return states, broken


def _state(run: BacktestRun) -> PoolState:
    if run.slot_left:
        return PoolState.FINISHING
    return PoolState.RUNNING if run.has_container else PoolState.STARTING
