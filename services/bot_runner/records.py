"""What a worker leaves behind about its bots: the status in each document, the history of runs, and their logs."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from libs.core.errors import Retryable
from libs.core.log import get_logger
from libs.core.store.entities import EntityStore
from libs.core.store.leases import LeaseStore
from libs.core.store.runs import RunFilter, RunRecord, RunStore
from libs.docker_runner.container import Ended, ManagedContainer
from libs.docker_runner.executable import Executable
from libs.docker_runner.log_pipeline import LogPipeline
from services.bot_runner.status import BotStatus, utc_now

log = get_logger(__name__)


@dataclass(frozen=True)
class Recorder:
    """Who writes: the worker's name and its Docker host."""

    worker: str
    host: str


class BotRecords:
    """Writes about the bots of one owned segment. Nothing here decides what runs: a failed write stops no bot."""

    def __init__(
        self, recorder: Recorder, *, entities: EntityStore, runs: RunStore, leases: LeaseStore, logs: LogPipeline
    ) -> None:
        self._recorder = recorder
        self._leases = leases
        self._entities = entities
        self._runs = runs
        self._logs = logs
        self._written: dict[str, BotStatus] = {}
        self._adopted: set[str] = set()

    @property
    def worker(self) -> str:
        """The worker's name."""
        return self._recorder.worker

    async def begin(self, executable: Executable) -> str | None:
        """Record that a run is about to begin; an earlier one of this bot that still looks open has ended unseen.

        Returns:
            None, or the worker under whose lease an earlier run may still be alive, and then nothing was recorded. A
            bot that is deleted and created again may come to another segment while its old owner still stops it.
        """
        elsewhere = await self._alive_elsewhere(executable)
        if elsewhere is not None:
            return elsewhere
        await self._runs.close_open(
            reason="missing",
            message="its container was gone when the next one started",
            ended_at=utc_now(),
            entity_id=executable.id,
            keep=[executable.run_id],
        )
        await self._runs.start(
            RunRecord(
                run_id=executable.run_id,
                entity_id=executable.id,
                segment_id=executable.segment,
                worker_id=self.worker,
                host=self._recorder.host,
                epoch=executable.epoch,
                started_at=utc_now(),
                revision=executable.revision,
                # A digest tells which config it was without telling the keys in it.
                config_digest=hashlib.sha256(executable.config_json.encode()).hexdigest(),
                image_digest=executable.placement.image,
            )
        )
        return None

    async def not_begun(self, executable: Executable, reason: str) -> None:
        """Record that a run came to nothing."""
        now = utc_now()
        await self._runs.close_open(
            reason="not-started", message=reason, ended_at=now, entity_id=executable.id, segment_id=executable.segment
        )

    async def _alive_elsewhere(self, executable: Executable) -> str | None:
        open_runs = await self._runs.list(RunFilter(entity_id=executable.id, open=True))
        others = [run for run in open_runs if run.segment_id != executable.segment]
        if not others:
            return None
        leases = {lease.segment_id: lease.epoch for lease in await self._leases.live()}
        return next((run.worker_id for run in others if leases.get(run.segment_id) == run.epoch), None)

    async def running(self, container: ManagedContainer, status: BotStatus, epoch: int) -> None:
        """Follow a container that runs as it should, also one that an earlier owner started."""
        self._logs.follow(container)
        if container.run_id not in self._adopted:
            found = await self._runs.adopt(
                container.run_id,
                worker_id=self.worker,
                epoch=epoch,
                container_id=container.container_id,
                code_digest=container.code_etag,
            )
            if not found:
                await self._runs.start(_beginning(container, self._recorder, epoch))
            self._adopted.add(container.run_id)
        await self.write_status(status)

    async def last_words(self, container: ManagedContainer) -> None:
        """Take the rest of a dead container's output, before it is removed."""
        await self._logs.finish(container)

    async def ended(self, ended: Ended, reason: str) -> None:
        """Record why a container ended."""
        container = ended.container
        self._adopted.discard(container.run_id)
        await self._runs.finish(_end(ended, reason, self._recorder))

    async def all_ended(self, ended: Sequence[Ended], reason: str) -> None:
        """Record the ends of a whole segment. What cannot be written is only logged: the segment must be given up."""
        for end in ended:
            try:
                await self.ended(end, reason)
            except Retryable as error:
                log.warning("end of a run not recorded", bot=end.container.id, reason=reason, error=str(error))

    def forget_all_but(self, bot_ids: Collection[str]) -> None:
        """Drop what is known of bots that are gone."""
        for bot_id in self._written.keys() - set(bot_ids):
            del self._written[bot_id]

    async def write_status(self, status: BotStatus) -> None:
        """Bring the bot's document up to date, unless it says the same already."""
        if status.says_the_same_as(self._written.get(status.bot_id)):
            return
        await self._entities.set_status(status.bot_id, status.to_document())
        self._written[status.bot_id] = status


async def write_down(runs: RunStore, recorder: Recorder, ended: Sequence[Ended]) -> None:
    """Record the ends of containers that nobody watched: those of workers that are gone."""
    for end in ended:
        await runs.finish(_end(end, str(end.reason), recorder))


def _beginning(container: ManagedContainer, recorder: Recorder, epoch: int) -> RunRecord:
    """The record of a run whose beginning nobody wrote down: its worker died just then."""
    return RunRecord(
        run_id=container.run_id,
        entity_id=container.id,
        segment_id=container.segment,
        worker_id=recorder.worker,
        host=recorder.host,
        epoch=epoch,
        started_at=container.started_at or utc_now(),
        revision=container.revision,
        container_id=container.container_id,
        code_digest=container.code_etag,
    )


def _end(ended: Ended, reason: str, recorder: Recorder) -> RunRecord:
    container = ended.container
    finished_at = ended.finished_at or utc_now()
    return RunRecord(
        run_id=container.run_id,
        entity_id=container.id,
        segment_id=container.segment,
        worker_id=container.worker or recorder.worker,
        host=recorder.host,
        epoch=container.epoch,
        started_at=ended.started_at or finished_at,
        revision=container.revision,
        container_id=container.container_id,
        code_digest=container.code_etag,
        ended_at=finished_at,
        exit_code=ended.exit_code,
        reason=reason,
        message=ended.error or None,
        oom_killed=ended.oom_killed,
        last_lines=tuple(ended.last_lines),
        peak_memory_bytes=ended.peak_memory_bytes,
        cpu_seconds=ended.cpu_seconds,
    )
