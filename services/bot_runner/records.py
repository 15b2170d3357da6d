"""What a worker leaves behind about its bots: the status in each document, the history of runs, and their logs."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from libs.core.errors import Retryable
from libs.core.log import get_logger
from libs.core.store.entities import EntityStore
from libs.core.store.runs import RunRecord, RunStore
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

    def __init__(self, recorder: Recorder, *, entities: EntityStore, runs: RunStore, logs: LogPipeline) -> None:
        self._recorder = recorder
        self._entities = entities
        self._runs = runs
        self._logs = logs
        self._written: dict[str, BotStatus] = {}
        self._adopted: set[str] = set()

    @property
    def worker(self) -> str:
        """The worker's name."""
        return self._recorder.worker

    async def started(self, container: ManagedContainer, executable: Executable) -> None:
        """Record that a run began; an earlier run of this bot that still looks open has ended unseen."""
        record = self._record(container, config_json=executable.config_json, image=executable.placement.image)
        await self._runs.close_open(
            reason="missing",
            message="its container was gone when the next one started",
            ended_at=utc_now(),
            entity_id=container.id,
            keep=[container.run_id],
        )
        await self._runs.start(record)
        self._adopted.add(container.run_id)

    async def running(self, container: ManagedContainer, status: BotStatus) -> None:
        """Follow a container that runs as it should, also one that an earlier owner started."""
        self._logs.follow(container)
        if container.run_id not in self._adopted:
            found = await self._runs.adopt(container.run_id, worker_id=self.worker, epoch=container.epoch)
            if not found:
                await self._runs.start(self._record(container))
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

    def _record(
        self, container: ManagedContainer, *, config_json: str | None = None, image: str | None = None
    ) -> RunRecord:
        return RunRecord(
            run_id=container.run_id,
            entity_id=container.id,
            segment_id=container.segment,
            worker_id=self.worker,
            host=self._recorder.host,
            epoch=container.epoch,
            started_at=container.started_at or utc_now(),
            revision=container.revision,
            container_id=container.container_id,
            code_digest=container.code_etag,
            # A digest tells which config it was without telling the keys in it.
            config_digest=hashlib.sha256(config_json.encode()).hexdigest() if config_json is not None else None,
            image_digest=image,
        )


async def write_down(runs: RunStore, recorder: Recorder, ended: Sequence[Ended]) -> None:
    """Record the ends of containers that nobody watched: those of workers that are gone."""
    for end in ended:
        await runs.finish(_end(end, str(end.reason), recorder))


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
