"""The records of a schedule's runs: their history, their output, and the summary in the schedule's document."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from libs.core.aio.gathering import Gathered
from libs.core.run_record import RunRecord
from libs.core.store.leases import LeaseStore
from libs.core.store.runs import LiveRuns, RunFilter, RunStore
from libs.docker_runner.containers.container import Ended, EndReason, ManagedContainer
from libs.docker_runner.containers.run_records import Recorder
from libs.docker_runner.executable import Executable
from libs.docker_runner.runs.attempt import AttemptResult
from libs.docker_runner.runs.history import RunHistory
from libs.notifications.event import Event, Notice, NoticeQueue
from services.bot_scheduler.decide import Dropped
from services.bot_scheduler.ending import StopReason, utc
from services.bot_scheduler.state import Firing, ScheduleState

# Maximum per request; more would block the event loop.
_MOST_BEGINNINGS = 100


class Output(Protocol):
    """The sink of containers' output: the log pipeline."""

    def follow(self, container: ManagedContainer) -> None:
        """Follow its output from now on."""

    async def finish(self, container: ManagedContainer) -> bool:
        """Read the rest of the output of a dead container."""

    async def stored(self, entity_id: str, limit_seconds: float) -> bool:
        """Upload the output of an entity; return whether nothing of it is left on this host's disk."""


class RunRecords(RunHistory):
    """The history of runs and their output, for one owned segment. Every write may be repeated."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        segment_id: int,
        epoch: int,
        runs: RunStore,
        leases: LeaseStore,
        output: Output,
        notifier: NoticeQueue,
    ) -> None:
        super().__init__(recorder, segment_id=segment_id, epoch=epoch, runs=runs)
        self._runs = runs
        self._live_runs = LiveRuns(runs, leases)
        self._output = output
        self._notifier = notifier
        self._beginnings = Gathered(self._begin, _MOST_BEGINNINGS)

    def follow(self, container: ManagedContainer) -> None:
        """Follow the container's output."""
        self._output.follow(container)

    async def are_closed(self, schedule_id: str) -> bool:
        """Whether the end of each of the schedule's runs in this segment is recorded."""
        wanted = RunFilter(entity_id=schedule_id, segment_id=self._segment_id, open=True)
        return not await self._runs.list(wanted, limit=1)

    async def output_is_stored(self, schedule_id: str, within_seconds: float) -> bool:
        """Upload the schedule's output; return whether nothing of it is left on this host's disk."""
        return await self._output.stored(schedule_id, within_seconds)

    async def output_read(self, container: ManagedContainer) -> None:
        """Read the rest of a dead container's output, before it is removed."""
        await self._output.finish(container)

    async def begin(self, firing: Firing, executable: Executable) -> str | None:
        """Record that a run is about to start, so that the owner of another segment waits for its end.

        Returns:
            None, or the worker under whose lease an earlier run may still be alive in another segment. This is
            read after the own record is written: of two concurrent starts, at least one sees the other.

        Raises:
            Retryable: repeat it.
        """
        return await self._beginnings.ask(self.begins(executable, utc(firing.begins_at), **_of_firing(firing)))

    async def _begin(self, records: Sequence[RunRecord]) -> Sequence[str | None]:
        await self._runs.start_many(records)
        elsewhere = await self._live_runs.of([record.entity_id for record in records], outside=self._segment_id)
        return [elsewhere.get(record.entity_id) for record in records]

    async def started(self, firing: Firing, container: ManagedContainer) -> None:
        """Record that the container of a run was started."""
        record = self._open[firing.run_id] = replace(
            self._open[firing.run_id],
            container_id=container.container_id,
            code_digest=container.code_etag,
            started_at=container.started_at or utc(firing.begins_at),
        )
        found = await self._runs.adopt(
            firing.run_id,
            worker_id=record.worker_id,
            epoch=record.epoch,
            container_id=record.container_id,
            code_digest=record.code_digest,
            started_at=record.started_at,
        )
        if not found:
            await self._runs.start(record)

    async def adopt(self, firing: Firing, container: ManagedContainer) -> None:
        """Record that a run of an earlier owner continues here."""
        await self.adopted(container, container.started_at or utc(firing.begins_at), **_of_firing(firing))

    async def end(self, state: ScheduleState, firing: Firing, result: AttemptResult) -> None:
        """Record that a run has ended, or was never started; notify of a missed one."""
        await self.ended(state.entity, firing.run_id, result, result.at, **_of_firing(firing))
        if result.reason == Dropped.MISFIRE:
            facts = {"scheduled_at": utc(firing.at), "detail": result.message}
            await self._notifier.put(Notice(Event.MISSED, state.entity, str(firing.at), result.at, facts))

    async def stray_ended(self, ended: Ended, *, deleted: bool) -> None:
        """Record the end of a container without a firing; *deleted*: because its schedule is gone."""
        reason = str(StopReason.DELETED) if deleted and ended.reason is EndReason.STOPPED else None
        await self.container_ended(ended, reason)

    async def known_end(self, firing: Firing) -> RunRecord | None:
        """Return the recorded observed end of this run; None without one."""
        record = await self._runs.get(firing.run_id)
        return record if record is not None and record.ended_at is not None and not record.presumed else None

    async def alive_elsewhere(self, schedule_ids: Collection[str]) -> set[str]:
        """Return those of these schedules whose run may still be alive in another segment.

        Raises:
            Retryable: unknown.
        """
        return set(await self._live_runs.of(schedule_ids, outside=self._segment_id))


def _of_firing(firing: Firing) -> dict[str, Any]:
    return {"scheduled_at": utc(firing.at), "cause": str(firing.cause), "attempt": firing.attempt}


def last_run(firing: Firing, ending: AttemptResult) -> Mapping[str, object]:
    """Return the last run for the schedule's status."""
    ended = ending.ended
    return {
        "run_id": firing.run_id,
        "scheduled_at": utc(firing.at),
        "cause": str(firing.cause),
        "attempt": firing.attempt,
        "started_at": ended.started_at if ended is not None else None,
        "ended_at": ending.at,
        "reason": ending.reason,
        "exit_code": ended.exit_code if ended is not None else None,
        "message": ending.message or (ended.message if ended is not None else ""),
    }
