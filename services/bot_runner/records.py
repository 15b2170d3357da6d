"""A worker's records of its bots: the status in each document, the history of runs, and their logs."""

import asyncio
from collections.abc import Collection, Mapping, Sequence

from libs.core.observability.log import get_logger
from libs.core.store.entities import Entity, EntityStore
from libs.core.store.leases import LeaseStore
from libs.core.store.releases import FIELD, Release, condition_for
from libs.core.store.runs import LiveRuns, RunFilter, RunStore
from libs.docker_runner.containers.container import Ended, ManagedContainer
from libs.docker_runner.containers.run_records import Recorder, of_executable
from libs.docker_runner.executable import Executable
from libs.docker_runner.logs.following import LogFollowing
from libs.docker_runner.runs.history import RunHistory
from services.bot_runner.status import BotStatus, utc_now

log = get_logger(__name__)


class BotRecords(RunHistory):
    """Writes about the bots of one owned segment. They do not decide what runs: a failed write stops no bot."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        segment_id: int,
        epoch: int,
        entities: EntityStore,
        runs: RunStore,
        leases: LeaseStore,
        logs: LogFollowing,
    ) -> None:
        super().__init__(recorder, segment_id=segment_id, epoch=epoch, runs=runs)
        self._live_runs = LiveRuns(runs, leases)
        self._entities = entities
        self._runs = runs
        self._logs = logs
        self._written: dict[str, BotStatus] = {}
        self._adopted: set[str] = set()
        self._promised_earlier: Collection[str] = ()

    @property
    def worker(self) -> str:
        """The worker's name."""
        return self._recorder.worker

    @property
    def statuses(self) -> Collection[BotStatus]:
        """The statuses in the bots' documents, as last written."""
        return self._written.values()

    async def begin(self, executable: Executable) -> str | None:
        """Record that a run is about to start; an open earlier one of this bot has ended unobserved.

        Returns:
            None, or the worker under whose lease an earlier run may still be alive, and then nothing was recorded. A
            bot that is deleted and recreated may get another segment while its old owner still stops it.
        """
        elsewhere = await self._alive_elsewhere(executable)
        if elsewhere is not None:
            return elsewhere
        await self._runs.start(of_executable(executable, self._recorder, utc_now()))
        # Read again after this run is visible to others: of two concurrent starts, at least one sees the other.
        elsewhere = await self._alive_elsewhere(executable)
        if elsewhere is not None:
            await self.not_begun(executable, "another run of it started elsewhere at the same time")
            return elsewhere
        await self._runs.close_open(
            reason="missing",
            message="its container no longer existed at the next start",
            ended_at=utc_now(),
            entity_id=executable.id,
            keep=[executable.run_id],
            are_over=True,
        )
        return None

    async def close_all_earlier(self, alive: Collection[str]) -> bool:
        """Close the open runs of earlier owners, except those in *alive* and those whose containers may still stop.

        Returns:
            Whether none of the latter is left; else call it again.
        """
        stopping = await self._live_runs.stopping(self._segment_id)
        await self.close_earlier([*alive, *stopping], are_over=True)
        return not set(stopping) - set(alive)

    async def promise_ends(self, seconds: float) -> None:
        """Record that the segment's containers are gone *seconds* from now, under any owner."""
        self._promised_earlier = await self._live_runs.stopping(self._segment_id)
        await self._runs.promise_ends(self._segment_id, epoch=self._epoch, seconds=seconds)

    async def has_promised(self, alive: Collection[str]) -> bool:
        """Return whether the promise covers the runs *alive*, and close the others: their starts have no effect now.

        Runs that an earlier owner promised to end stay open: their containers may still stop on another engine.
        """
        found = await self._runs.list(RunFilter(segment_id=self._segment_id, open=True, is_stopping=True), limit=0)
        if not set(alive) <= {run.run_id for run in found}:
            return False
        earlier = [r.run_id for r in found if r.epoch < self._epoch and r.run_id in self._promised_earlier]
        await self._close_not_started([*alive, *earlier], are_over=True)
        return True

    async def not_begun(self, executable: Executable, reason: str, alive: Collection[str] = ()) -> None:
        """Record that a run did not start. *alive* are the runs that have containers."""
        await self._runs.close_open(
            reason="not-started",
            message=reason,
            ended_at=utc_now(),
            entity_id=executable.id,
            segment_id=executable.segment,
            keep=alive,
        )

    async def _alive_elsewhere(self, executable: Executable) -> str | None:
        found = await self._live_runs.of([executable.id], outside=executable.segment)
        return found.get(executable.id)

    async def running(
        self,
        container: ManagedContainer,
        status: BotStatus,
        *,
        stored_status: Mapping[str, object] | None = None,
    ) -> None:
        """Follow a container that runs as desired, also one that an earlier owner started.

        Args:
            stored_status: as for :meth:`write_status`.
        """
        self._logs.follow(container)
        if container.run_id not in self._adopted:
            await self.adopted(container, container.started_at or utc_now())
            self._adopted.add(container.run_id)
        await self.write_status(status, stored_status=stored_status)

    async def keep(self, entity: Entity, release: Release) -> None:
        """Write the accepted versions of *entity*; no effect when it has another owner now."""
        change = {FIELD: release.to_document(self._epoch)}
        if not await self._entities.compare_and_set(entity.id, condition_for(entity, self._epoch), change):
            log.info("release not written: the bot was recreated, or has another owner", bot=entity.id)

    async def output_read(self, container: ManagedContainer) -> None:
        """Read the rest of a dead container's output, before it is removed."""
        await self._logs.finish(container)

    async def container_ended(self, ended: Ended, reason: str | None = None, message: str | None = None) -> None:
        """Record why a container ended: *reason*, or the engine's reason."""
        await super().container_ended(ended, reason, message)
        self._adopted.discard(ended.container.run_id)

    async def segment_ended(self, ended: Sequence[Ended]) -> None:
        """Record the ends of the whole segment, in which nothing runs any more."""
        await asyncio.gather(*(self.container_ended(end) for end in ended))
        # An interrupted start has a record and no container, and no later start will close the record of a deleted
        # bot: `bot rm` would wait for its end in vain.
        await self._close_not_started()

    async def _close_not_started(self, keep: Collection[str] = (), *, are_over: bool = False) -> None:
        await self._runs.close_open(
            reason="stopped",
            message="its segment was released before its start",
            ended_at=utc_now(),
            segment_id=self._segment_id,
            before_epoch=self._epoch + 1,
            keep=keep,
            are_over=are_over,
        )

    async def are_closed(self, bot_id: str) -> bool:
        """Whether the end of each of the bot's runs in this segment is recorded."""
        wanted = RunFilter(entity_id=bot_id, segment_id=self._segment_id, open=True)
        return not await self._runs.list(wanted, limit=1)

    async def output_is_stored(self, bot_id: str, within_seconds: float) -> bool:
        """Upload the bot's output; return whether nothing of it is left on this host's disk."""
        return await self._logs.stored(bot_id, within_seconds)

    def forget_all_but(self, bot_ids: Collection[str]) -> None:
        """Drop the state of removed bots."""
        for bot_id in self._written.keys() - set(bot_ids):
            del self._written[bot_id]

    async def write_status(self, status: BotStatus, *, stored_status: Mapping[str, object] | None = None) -> None:
        """Update the bot's document, unless it is equal already.

        Args:
            stored_status: the status as it was read after the last write. The document may have been recreated since,
                or overwritten by an earlier owner that was frozen meanwhile. None: the status that was written last.
        """
        is_there = stored_status is None or status.matches(stored_status)
        if is_there and status.equals_except_time(self._written.get(status.bot_id)):
            return
        await self._entities.set_status(status.bot_id, status.to_document())
        self._written[status.bot_id] = status
