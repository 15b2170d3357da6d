"""The actions on one bot: start it, stop it, reap a dead container, and write its status.

A bot has no :class:`Attempt`. An attempt is one task that repeats its start and waits for its end. What a bot should
run is decided anew in each round, and its backoff is stored in its document, so that another owner continues it. The
actions share the run history and the stop orders with attempts.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from prometheus_client import Counter

from libs.core.aio.wake import Wake
from libs.core.errors import Retryable, RuntimeFault, UserError
from libs.core.observability.log import get_logger
from libs.core.process.isolation import isolated, unexpected
from libs.core.room import Need
from libs.core.store.owner_quotas import LOOK_SECONDS, OwnerQuotas
from libs.core.store.releases import Rejection
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.containers import endings
from libs.docker_runner.containers.container import Ended, EndReason, ManagedContainer
from libs.docker_runner.containers.failure import FailureReason
from libs.docker_runner.engine.room import Shortage
from libs.docker_runner.engine.room_view import waiting_detail
from libs.docker_runner.errors import EngineUnavailable, NoRoom, StartFailed, StopFailed
from libs.docker_runner.executable import Executable
from libs.docker_runner.runs.stop_orders import StopOrder, stop_by_order
from services.bot_runner.desired_bot import DesiredBot, StopReason
from services.bot_runner.fallback import Fallback
from services.bot_runner.moving import BotMover
from services.bot_runner.notices import BotNotices
from services.bot_runner.plan import Action, Keep, Move, Reap, Start, Stop, WaitForRoom
from services.bot_runner.records import BotRecords
from services.bot_runner.restart_memory import RestartMemory
from services.bot_runner.restarts import RestartPolicy
from services.bot_runner.standbys import BotStandbys, StandbyEngine
from services.bot_runner.status import BotState, BotStatus, utc_now
from services.bot_runner.verdicts import rejection_for

log = get_logger(__name__)

RESTARTS = Counter("runtime_restarts_total", "Unrequested ends of bots, which lead to a restart.", ["reason"])
for _reason in (*EndReason, "not-started"):
    RESTARTS.labels(str(_reason))  # exported as 0, so that the first one shows as an increase

_ABSENT_STATES = {
    StopReason.DISABLED: BotState.DISABLED,
    StopReason.KILLED: BotState.KILLED,
    StopReason.STOPPED: BotState.STOPPED,
    StopReason.REJECTED: BotState.REJECTED,
    StopReason.MISPLACED: BotState.WAITING,
}
# The next round repeats a failed stop or read; this delay prevents rounds in quick succession.
_RETRY_SECONDS = 1.0
# Delay before the next look at a bot whose earlier run still stops elsewhere: users wait for its end.
_ELSEWHERE_SECONDS = 0.25
# Delay before a bot without room is tried again, if the engine seems to have room.
_NO_ROOM_SECONDS = 0.2


@dataclass
class _Stopping:
    """A stop in progress, with its latest order."""

    order: StopOrder
    wake: Wake = field(default_factory=Wake)


class BotActions:
    """Carries out single actions for the bots of one owned segment. Each may be repeated."""

    def __init__(
        self,
        owned: OwnedSegment,
        *,
        runner: StandbyEngine,
        records: BotRecords,
        memory: RestartMemory,
        notices: BotNotices,
        quotas: OwnerQuotas,
        mover: BotMover,
        stop_grace_seconds: float,
        standby_updates: bool = False,
        policy: RestartPolicy | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._owned = owned
        self._runner = runner
        self._records = records
        self._memory = memory
        self._notices = notices
        self._quotas = quotas
        self._mover = mover
        self._stop_grace = stop_grace_seconds
        self._policy = policy or RestartPolicy()
        self._clock = clock
        self._fallback = Fallback(records=records, memory=memory, policy=self._policy, clock=clock)
        self._over_quota: set[str] = set()
        self._counted: set[str] = set()
        self._unknown_starts: dict[str, tuple[Executable, str]] = {}
        self._stopping: dict[str, _Stopping] = {}
        self.standbys = BotStandbys(runner) if standby_updates else None
        """None: bots are updated without standbys."""

    @property
    def over_quota(self) -> Collection[str]:
        """The bots that wait for the quota of their owner, so that more room on engines would not help them."""
        return self._over_quota

    async def record_failed_starts(self, present: Sequence[ManagedContainer], under_way: Collection[str]) -> None:
        """Record the starts of unknown outcome that failed. *present* are all existing containers.

        Args:
            under_way: bots whose start may still be in progress.
        """
        alive = [container.run_id for container in present]
        for executable, detail in list(self._unknown_starts.values()):
            if executable.id not in under_way:
                if executable.run_id not in alive:
                    await self._records.not_begun(executable, detail, alive)
                del self._unknown_starts[executable.id]

    async def carry_out(self, action: Action) -> None:
        """Do *action*. A failure is logged, written into the bot's status, and planned again by a later round."""
        if not self._owned.proven():
            # Frozen or disconnected: the current owner of the segment decides about its containers.
            log.warning("ownership is not proven; nothing is done", action=type(action).__name__)
            await asyncio.sleep(_RETRY_SECONDS)
            return
        try:
            match action:
                case Start():
                    await self._start_bot(action.executable)
                case Stop():
                    await self._stop(action)
                case Reap():
                    await self._reap(action.container)
                case Keep():
                    await self._fallback.keep(action.id, action.release)
                case Move():
                    await self._mover.move(self._memory.entity(action.id), action.order)
        except Retryable as error:
            log.warning("action failed; it is tried again", action=type(action).__name__, error=str(error))
            await asyncio.sleep(_RETRY_SECONDS)

    def kill(self, bot_id: str) -> None:
        """Let a graceful stop of the bot, if one is in progress, continue as a kill. May be repeated."""
        stopping = self._stopping.get(bot_id)
        if stopping is not None and stopping.order.reason != StopReason.KILLED and self._owned.proven():
            log.info("grace period of a stop is cut short", bot=bot_id)
            stopping.order = self._order(StopReason.KILLED)
            stopping.wake.set()

    async def settle(
        self,
        desired: Mapping[str, DesiredBot],
        kept: Sequence[ManagedContainer],
        absent: Mapping[str, StopReason],
        held_up: Mapping[str, Shortage],
    ) -> None:
        """Update the documents of bots that need no action: those that keep running, and those that must not run.

        Args:
            absent: the bots that have no container in any state, and must have none.
            held_up: the bots whose newest version waits for room on the engine.
        """
        self._memory.forget_all_but(desired)
        self._records.forget_all_but(desired)
        self._notices.forget_all_but(desired)
        self._over_quota.intersection_update(desired.keys() - absent.keys())
        for container in kept:
            status = self._running(container, held_up.get(container.id))
            bot = desired[container.id]
            with isolated("settle bot"):
                await self._records.running(container, status, stored_status=bot.stored_status)
                if bot.runnable is not None:
                    await self._quotas.count(bot.runnable, container.run_id)
                entity, history = self._memory.entity(container.id), self._memory.history_of(container.id)
                await self._notices.runs(entity, container, history)
        for bot_id, reason in absent.items():
            bot = desired[bot_id]
            rejection = bot.rejection if reason is StopReason.REJECTED else None
            status = BotStatus(
                bot.id,
                _ABSENT_STATES.get(reason, BotState.REJECTED),
                utc_now(),
                detail=rejection.detail if rejection is not None else "",
                revision=bot.revision,
                history=bot.history,
                rejection=rejection,
            )
            with isolated("settle bot"):
                await self._records.write_status(status, stored_status=bot.stored_status)
                if reason in (StopReason.KILLED, StopReason.STOPPED):
                    await self._notices.held(self._memory.entity(bot_id))

    async def wait_for_room(self, bot: WaitForRoom, detail: str, since: datetime) -> None:
        """Write into a bot's document that it waits for room, and for how much."""
        await self._write_waiting(bot.executable, detail, bot.shortage.need, since)

    async def _wait_for_quota(self, executable: Executable, refusal: str) -> None:
        self._over_quota.add(executable.id)
        await self._write_waiting(executable, f"waiting: {refusal}", None, utc_now())
        history = self._memory.history_of(executable.id)
        self._memory.set_history(executable.id, replace(history, not_before=self._clock() + LOOK_SECONDS))

    async def _write_waiting(self, executable: Executable, detail: str, need: Need | None, since: datetime) -> None:
        versions = self._of_versions(executable.id, executable.revision)
        said = f"{detail}; {versions.detail}" if versions.detail else detail
        # What it waits for now is no backoff.
        history = replace(self._memory.history_of(executable.id), not_before=0.0)
        await self._records.write_status(
            BotStatus(
                executable.id,
                BotState.WAITING,
                since,
                detail=said,
                revision=versions.revision,
                worker=executable.worker,
                history=history,
                rejection=versions.rejection,
                lacking=need,
            )
        )

    async def _start_bot(self, executable: Executable) -> None:
        if self.standbys is None:
            await self._start(executable)
        else:
            async with self.standbys.used_for(executable) as prepared:
                await self._start(prepared)

    async def _start(self, executable: Executable) -> None:
        history = self._memory.history_of(executable.id)
        versions = self._of_versions(executable.id, executable.revision)
        starting = BotStatus(
            executable.id,
            BotState.STARTING,
            utc_now(),
            detail=versions.detail,
            revision=versions.revision,
            worker=executable.worker,
            run_id=executable.run_id,
            history=history,
            rejection=versions.rejection,
            running_revision=versions.running_revision,
        )
        if (refusal := await self._quotas.admit(executable)) != "":
            await self._wait_for_quota(executable, refusal)
            return
        self._over_quota.discard(executable.id)
        alive_at = await self._records.begin(executable)
        if alive_at is not None:
            log.info("bot waits: an earlier run is being stopped elsewhere", worker_of_earlier_run=alive_at)
            self._memory.set_history(executable.id, replace(history, not_before=self._clock() + _ELSEWHERE_SECONDS))
            return
        await self._records.write_status(starting)
        try:
            container = await self._runner.start(executable)
        except NoRoom as error:
            # Others were faster. This is no failure of the bot, and a run without a container leaves no record.
            log.info("bot waits for room", shortage=str(error.shortage))
            await self._records.withdrawn(executable.run_id)
            await self._write_waiting(executable, waiting_detail(error.shortage), error.shortage.need, utc_now())
            await asyncio.sleep(_NO_ROOM_SECONDS)
        except UserError as error:
            log.warning("bot rejected", reason=str(error))
            await self._records.not_begun(executable, str(error))
            # A bot that cannot start must not keep others of its owner from starting.
            await self._quotas.give_up(executable)
            await self._refused(starting, executable, error)
        except Exception as error:  # noqa: BLE001 - any error is shown to the owner, and the bot is retried
            await self._not_started(executable, starting, error)
        else:
            log.info("bot started", container=container.name, run_id=container.run_id, restarts=history.restarts)
            await self._records.running(container, self._running(container))

    async def _refused(self, starting: BotStatus, executable: Executable, error: UserError) -> None:
        if await self._fallback.refused(executable, error):
            return
        bot = self._memory.bot(executable.id)
        detail, rejection = str(error), rejection_for(error, executable.revision)
        if bot is not None and bot.rejection is not None and bot.revision != executable.revision:
            detail = f"{bot.rejection.detail}; the previous version cannot be restored: {error}"
            rejection = bot.rejection
        history = starting.history.after_rejection(now=self._clock(), policy=self._policy)
        await self._failed_to_start(
            replace(starting, state=BotState.REJECTED, detail=detail, history=history, rejection=rejection)
        )

    async def _not_started(self, executable: Executable, starting: BotStatus, error: Exception) -> None:
        """Schedule another start with backoff; *error* may be transient, or unexpected."""
        RESTARTS.labels("not-started").inc()
        history = starting.history.after_death(ran_seconds=0.0, now=self._clock(), policy=self._policy)
        reason = str(error) if isinstance(error, RuntimeFault) else f"internal error, {type(error).__name__}: {error}"
        if isinstance(error, Retryable):
            log.warning("bot could not be started", reason=reason, failures=history.failures)
        else:
            unexpected("start bot", error, bot=executable.id, failures=history.failures)
        detail = f"could not be started: {reason}"
        if isinstance(error, EngineUnavailable) or not isinstance(error, Retryable):
            # It may run all the same. Until that is known, its record prevents a start elsewhere.
            self._unknown_starts[executable.id] = (executable, detail)
        else:
            await self._records.not_begun(executable, detail)
        if isinstance(error, StartFailed) and await self._fallback.unhealthy(
            executable.id, executable.revision, detail
        ):
            return
        await self._failed_to_start(replace(starting, state=BotState.BACKING_OFF, detail=detail, history=history))

    async def _failed_to_start(self, status: BotStatus) -> None:
        self._memory.set_history(status.bot_id, status.history)
        await self._records.write_status(replace(status, since=utc_now(), run_id=""))

    def _order(self, reason: StopReason) -> StopOrder:
        # The kill switch is for code that cannot be trusted to stop.
        return StopOrder(reason, 0.0 if reason is StopReason.KILLED else self._stop_grace)

    async def _stop(self, action: Stop) -> None:
        container = action.container
        if action.order is not None and not await self._mover.may_stop(self._memory.entity(action.id), action.order):
            return
        log.info("bot is being stopped", reason=str(action.reason), container=container.name)
        stopping = self._stopping[action.id] = _Stopping(self._order(action.reason))
        try:
            if action.successor is not None and self.standbys is not None:
                await self.standbys.prepare(action.successor, stopping.wake)
            order, ended = await stop_by_order(
                lambda order: self._runner.stop(container, order.grace_seconds),
                stopping.order,
                latest=lambda: stopping.order,
                wake=stopping.wake,
            )
        finally:
            del self._stopping[action.id]
        # At once, since users wait for it; and before the container is removed: if this worker dies in between, the
        # next one still finds how it ended.
        is_moved = action.order is not None and order.reason == StopReason.MOVED
        await self._records.container_ended(ended, str(order.reason), f"moved: {action.order}" if is_moved else None)
        await self._records.output_read(container)
        await self._runner.remove(container)
        log.info("bot stopped", reason=str(order.reason), container=container.name)

    async def _reap(self, container: ManagedContainer) -> None:
        ended = await self._runner.exit_info(container)
        if ended is None:
            raise StopFailed(container.name, "it had ended but runs again")
        # It is removed only after all of this is written: if this worker dies before, the next one repeats it, with
        # the same result.
        await self._records.container_ended(ended)
        # Once: the removal may fail for as long as the storage, which the last state goes to, is away.
        if container.run_id not in self._counted:
            await self._count(ended)
            self._counted.add(container.run_id)
        await self._records.output_read(container)
        await self._runner.remove(container)
        self._counted.discard(container.run_id)

    async def _count(self, ended: Ended) -> None:
        """Write into the bot's document what its end means for its next start."""
        RESTARTS.labels(str(ended.reason)).inc()
        container = ended.container
        history = self._memory.history_of(container.id)
        if ended.reason in (EndReason.MISSING, EndReason.STOPPED, EndReason.LEASE_LOST):
            # Not caused by the bot: it restarts with minimal delay, and its failures are not counted.
            self._memory.set_history(container.id, replace(history, not_before=self._clock() + _RETRY_SECONDS))
            return
        entity = self._memory.entity(container.id)
        await self._notices.crashed(entity, ended, describe_end(ended))
        if await self._fallback.ended(ended, describe_end(ended)):
            return
        ran_seconds, now = ended.duration_seconds or 0.0, self._clock()
        history = history.after_death(ran_seconds=ran_seconds, now=now, policy=self._policy, run_id=container.run_id)
        self._memory.set_history(container.id, history)
        delay = history.not_before - now
        log.warning(
            "bot ended", reason=str(ended.reason), exit_code=ended.exit_code, restarts_in_seconds=round(delay, 1)
        )
        versions = self._of_versions(container.id, container.revision)
        end = describe_end(ended)
        await self._notices.backing_off(entity, container.run_id, history, end)
        await self._records.write_status(
            BotStatus(
                container.id,
                BotState.BACKING_OFF,
                utc_now(),
                detail=f"{end}; {versions.detail}" if versions.detail else end,
                revision=versions.revision,
                history=history,
                rejection=versions.rejection,
                running_revision=versions.running_revision,
            )
        )

    def _running(self, container: ManagedContainer, shortage: Shortage | None = None) -> BotStatus:
        versions = self._of_versions(container.id, container.revision, str(shortage) if shortage is not None else "")
        return BotStatus(
            container.id,
            BotState.RUNNING,
            container.started_at or utc_now(),
            detail="; ".join(
                part
                for part in (
                    versions.detail,
                    refused_note(container.refused, listed=container.egress is not None),
                    container.state_problem,
                )
                if part
            ),
            revision=versions.revision,
            worker=self._records.worker,
            container=container.name,
            run_id=container.run_id,
            history=self._memory.history_of(container.id),
            rejection=versions.rejection,
            running_revision=versions.running_revision,
        )

    def _of_versions(self, bot_id: str, running_revision: int, held_up: str = "") -> "_OfVersions":
        """Return the status text about the newest version while that of *running_revision* runs."""
        bot = self._memory.bot(bot_id)
        if bot is None:
            return _OfVersions(running_revision, running_revision)
        note = bot.note(running_revision, held_up)
        runs = bot.revision if bot.runs_newest(running_revision) else running_revision
        return _OfVersions(bot.revision, runs, note, bot.rejection if note else None)


@dataclass(frozen=True)
class _OfVersions:
    revision: int
    running_revision: int
    detail: str = ""
    rejection: Rejection | None = None


def refused_note(refused: Sequence[str], *, listed: bool) -> str:
    """Return one sentence about destinations that a bot was refused; "" for none.

    Args:
        listed: whether the bot has a list of hosts.
    """
    if not refused:
        return ""
    why = "config.egress does not list" if listed else "bots may not reach"
    return f"{why} where it tried to connect to: {', '.join(refused)}"


def describe_end(ended: Ended) -> str:
    """Return one sentence for the bot's owner about why its container ended, with its last line of output."""
    sentence = endings.describe_end(ended)
    if ended.reason is EndReason.FINISHED:
        sentence += "; a bot should keep running"
    if ended.failure is not None and ended.failure.reason is not FailureReason.EXIT_CODE:
        # The last line repeats it as JSON.
        return f"it ended with exit code {ended.exit_code}: {sentence}"
    last = endings.last_line(ended)
    return f"{sentence}; its last line: {last}" if last else sentence
