"""Reconcile one segment repeatedly: read MongoDB and the engine, plan, and act on each bot separately."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from libs.core.aio.backoff import Setbacks
from libs.core.aio.wake import Wake
from libs.core.events.wakeups import WakeUps
from libs.core.observability.log import bound_context, get_logger
from libs.core.observability.metrics import observe
from libs.core.observability.tracing import Attributes, span
from libs.core.process.isolation import isolated, repeat, unexpected
from libs.core.room import Demand
from libs.core.store.entities import Entity, EntityStore
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.containers.container_group import ContainerGroup
from libs.docker_runner.engine.room import RoomRequest
from libs.docker_runner.engine.room_view import WAITING_CHECK_SECONDS, EngineRoom, WaitingForRoom
from libs.docker_runner.executable import Executable
from services.bot_runner.bot_actions import BotActions
from services.bot_runner.checks import VersionChecks
from services.bot_runner.desired import DesiredState
from services.bot_runner.desired_bot import DesiredBot, StopReason
from services.bot_runner.plan import Action, Start, Stop, plan
from services.bot_runner.records import BotRecords
from services.bot_runner.restarts import StartTimes
from services.bot_runner.revision_log import RevisionLog
from services.bot_runner.status import BotState, BotStatus

log = get_logger(__name__)

_FIRST_SETBACK_SECONDS = 0.5
_LONGEST_SETBACK_SECONDS = 30.0


class SegmentReconciler:
    """Makes the containers of one owned segment match its documents, until it is cancelled.

    Every wake-up, of any cause, starts the same round over the whole segment, so that a lost event costs time
    and never a bot. Each bot has at most one action in progress, and no bot waits for another's. An action that fails
    unexpectedly affects only its own bot: it is retried with backoff.
    """

    def __init__(
        self,
        owned: OwnedSegment,
        *,
        entities: EntityStore,
        desired_state: DesiredState,
        containers: ContainerGroup,
        actions: BotActions,
        records: BotRecords,
        revisions: RevisionLog,
        checks: VersionChecks,
        room: EngineRoom,
        wake_ups: WakeUps,
        scan_interval_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._owned = owned
        self._entities = entities
        self._desired_state = desired_state
        self._containers = containers
        self._actions = actions
        self._records = records
        self._revisions = revisions
        self._checks = checks
        self._room = room
        self._wake_ups = wake_ups
        self._waiting = WaitingForRoom(room, owned.wake)
        self._places: dict[str, RoomRequest] = {}
        self._demand = Demand()
        self._scan_interval = scan_interval_seconds
        self._foreign_standbys = True
        self._clock = clock
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._start_times = StartTimes()
        self._placement: str | None = None
        self._setbacks = Setbacks(_FIRST_SETBACK_SECONDS, _LONGEST_SETBACK_SECONDS)
        self._earlier_closed = False
        self.running = 0
        """The number of containers that were as desired in the last round."""

    @property
    def wake(self) -> Wake:
        """Set it to start the next round at once."""
        return self._owned.wake

    async def run(self) -> None:
        """Reconcile on every wake-up and at every scan, forever.

        While the database or the engine is down, running bots continue.
        """
        try:
            async with asyncio.TaskGroup() as tasks:

                async def one_round() -> float:
                    with observe("reconcile", "bots"):
                        return self._pause_until(await self.reconcile_once(tasks))

                await repeat("reconcile bots", one_round, self._scan_interval, wake=self.wake)
        finally:
            self._waiting.become({})
            for bot_id in list(self._places):
                self._give_up_place(bot_id)
            if (standbys := self._actions.standbys) is not None:
                await standbys.close()

    @property
    def statuses(self) -> Collection[BotStatus]:
        """The statuses of the bots."""
        return self._records.statuses

    def states(self) -> Mapping[str, int]:
        """Return the number of bots in each state."""
        found = Counter(status.state for status in self.statuses)
        return {str(state): found[state] for state in BotState}

    def demand(self) -> Demand:
        """Return what the bots of the segment need of the engine, as of the last round; fast."""
        return self._demand

    def container_changed(self, bot_id: str) -> None:
        """Note that a container ended: the next round detects which."""
        # The end of an action in progress has a round of its own.
        if bot_id not in self._under_way:
            self.wake.set()

    async def reconcile_once(self, tasks: asyncio.TaskGroup) -> float | None:
        """Run one round: start the actions in *tasks*, and return the Unix time of the next round that time requires.

        Raises:
            Retryable: the database or the engine could not be read; nothing was done.
        """
        # Actions in progress may be half done in what is read next; their end wakes another round.
        unsettled = set(self._under_way)
        if self._placement is None:
            self._placement = await self._entities.partitions.placement_of(self._owned.segment_id)
        placement = self._placement
        entities, actual = await asyncio.gather(
            self._entities.in_segment(self._owned.segment_id), self._containers.list()
        )
        if not self._earlier_closed:
            with isolated("take stock of bots"):
                alive = [container.run_id for container in actual]
                self._earlier_closed = await self._records.close_all_earlier(alive)
        standbys = self._actions.standbys
        if standbys is not None and self._foreign_standbys:
            with isolated("remove standbys"):
                await self._containers.remove_standbys()
                self._foreign_standbys = False
        with isolated("look after starts"):
            await self._actions.record_failed_starts(actual, unsettled)
        segment_id, now = self._owned.segment_id, self._clock()
        desired = {one.id: self._desired_state.of(one, placement, one.order_from(segment_id, now)) for one in entities}
        wanted = {bot.id: bot.runnable for bot in desired.values() if bot.absence is None and bot.runnable is not None}
        for bot_id in self._places.keys() - wanted.keys():
            self._give_up_place(bot_id)
        decided = plan(
            desired,
            self._start_times.corrected(actual, now, time.time()),
            now,
            self._room.reservations(),
            standbys=standbys is not None,
        )
        self.running = len(decided.kept)
        waiting = {wait.id: wait for wait in decided.waiting if wait.id not in unsettled}
        self._waiting.become({wait.id: (wait.executable.room, wait.shortage) for wait in waiting.values()})
        self._demand = Demand.of(
            (one.limits.need for bot_id, one in wanted.items() if bot_id not in self._actions.over_quota),
            self._waiting.needs(),
        )
        self._setbacks.forget_all_but([_key(action) for action in decided.actions])
        for action in decided.actions:
            if action.id not in unsettled and self._setbacks.left_seconds(_key(action)) == 0:
                if isinstance(action, Start):
                    self._keep_place(action.executable)
                elif (
                    isinstance(action, Stop)
                    and action.reason is not StopReason.MOVED
                    and (executable := wanted.get(action.id)) is not None
                ):
                    # A bot that is stopped for a restart does not lose its room to a waiting one.
                    self._keep_place(executable)
                self._begin(action, desired.get(action.id), tasks)
            elif _kills(action):
                # The kill switch does not wait for the grace period of an earlier stop.
                self._actions.kill(action.id)
        if standbys is not None:
            starting = [action.id for action in decided.actions if isinstance(action, Start)]
            for bot_id in standbys.unused([*self._under_way, *starting]):
                tasks.create_task(standbys.drop(bot_id), name=f"drop standby {bot_id[:40]!r}")
        for executable in decided.checks.values():
            self._checks.begin(executable, tasks)
        self._checks.forget_all_but(desired)
        settled = [container for container in decided.kept if container.id not in unsettled]
        absent = {bot_id: reason for bot_id, reason in decided.absent.items() if bot_id not in unsettled}
        await self._actions.settle(desired, settled, absent, decided.held_up)
        await self._move_misplaced([one for one in entities if absent.get(one.id) is StopReason.MISPLACED])
        for bot_id, wait in self._waiting:
            with isolated("settle bot"):
                await self._actions.wait_for_room(waiting[bot_id], wait.detail, wait.since)
        if self._owned.proven():
            with isolated("note revisions"):
                await self._revisions.note(entities, desired)
        return self._sooner(decided.next_round_at)

    async def _move_misplaced(self, entities: Sequence[Entity]) -> None:
        """Move bots without a container to segments of their placement.

        No worker runs them before: each runs only those of its segment's placement.
        """
        for entity in entities:
            with isolated("move bot"):
                if self._owned.proven() and (segment_id := await self._entities.move(entity)) is not None:
                    log.info("bot moves to a segment of its placement", bot=entity.id, segment=segment_id)
                    await self._wake_ups.entity_moved(segment_id)

    def _begin(self, action: Action, bot: DesiredBot | None, tasks: asyncio.TaskGroup) -> None:
        trace = bot.trace if bot is not None else {}
        task = tasks.create_task(self._act(action, trace), name=f"bot {action.id[:40]!r}")
        self._under_way[action.id] = task

    async def _act(self, action: Action, trace: Mapping[str, str]) -> None:
        about: Attributes = {"runtime.id": action.id, "runtime.segment": self._owned.segment_id}
        name = f"{type(action).__name__.lower()} bot"
        try:
            with bound_context(bot=action.id), span(name, parent=trace, links=[self._owned.trace], attributes=about):
                await self._actions.carry_out(action)
        except Exception as error:  # noqa: BLE001 - of this bot alone: the others' kill switch goes on
            wait = self._setbacks.failed(_key(action))
            unexpected("act on bot", error, bot=action.id, action=name, retry_in_seconds=round(wait, 2))
        else:
            self._setbacks.worked(_key(action))
        finally:
            if isinstance(action, Start):
                self._give_up_place(action.id)
            del self._under_way[action.id]
            self.wake.set()

    def _keep_place(self, executable: Executable) -> None:
        """Reserve its room until the outcome of its start is known."""
        self._give_up_place(executable.id)
        self._places[executable.id] = executable.room
        self._room.expect(executable.room)

    def _give_up_place(self, bot_id: str) -> None:
        if (place := self._places.pop(bot_id, None)) is not None:
            self._room.settle(place)

    def _sooner(self, next_round_at: float | None) -> float | None:
        """Return the Unix time of the next round or of the first repeated action, whichever is earlier."""
        left_seconds = self._setbacks.first_left_seconds()
        if left_seconds is None:
            return next_round_at
        again_at = self._clock() + left_seconds
        return again_at if next_round_at is None else min(next_round_at, again_at)

    def _pause_until(self, next_round_at: float | None) -> float:
        longest = min(self._scan_interval, WAITING_CHECK_SECONDS) if self._waiting else self._scan_interval
        if next_round_at is None:
            return longest
        return min(longest, max(0.0, next_round_at - self._clock()))


def _key(action: Action) -> str:
    """Return the key of its failures: a bot whose start or graceful stop fails is still killed at once."""
    return f"{'Kill' if _kills(action) else type(action).__name__} {action.id}"


def _kills(action: Action) -> bool:
    return isinstance(action, Stop) and action.reason is StopReason.KILLED
