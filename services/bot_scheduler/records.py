"""What a schedule's runs leave behind: their history, their output, and a few words in the schedule's document."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from libs.core.log import get_logger
from libs.core.store.runs import RunRecord, RunStore
from libs.docker_runner.container import Ended, ManagedContainer
from libs.docker_runner.executable import Executable
from services.bot_scheduler.ending import Ending, utc
from services.bot_scheduler.state import Firing, ScheduleState

log = get_logger(__name__)


@dataclass(frozen=True)
class Recorder:
    """Who writes: the worker's name and its Docker host."""

    worker: str
    host: str


class Output(Protocol):
    """What takes containers' output: the log pipeline."""

    def follow(self, container: ManagedContainer) -> None:
        """Take its output from now on."""

    async def finish(self, container: ManagedContainer) -> bool:
        """It is dead: take the rest."""


class RunRecords:
    """The history of runs and their output, for one owned segment. Every write may be repeated."""

    def __init__(self, recorder: Recorder, *, segment_id: int, epoch: int, runs: RunStore, output: Output) -> None:
        self._recorder = recorder
        self._segment_id = segment_id
        self._epoch = epoch
        self._runs = runs
        self._output = output
        self._open: dict[str, RunRecord] = {}

    def follow(self, container: ManagedContainer) -> None:
        """Take the container's output."""
        self._output.follow(container)

    async def output_read(self, container: ManagedContainer) -> None:
        """The container is dead: take the rest of its output, before it is removed."""
        await self._output.finish(container)

    async def started(
        self, state: ScheduleState, firing: Firing, container: ManagedContainer, executable: Executable
    ) -> None:
        """A run has begun."""
        record = self._record(state, firing, container, started_at=(container.started_at or utc(firing.begins_at)))
        record = replace(
            record,
            # A digest tells which config it was without telling the keys in it.
            config_digest=hashlib.sha256(executable.config_json.encode("utf-8", "replace")).hexdigest(),
            image_digest=executable.placement.image,
        )
        await self._runs.start(record)
        self._open[firing.run_id] = record

    async def adopted(self, state: ScheduleState, firing: Firing, container: ManagedContainer) -> None:
        """A run that an earlier owner began goes on here."""
        if not await self._runs.adopt(firing.run_id, worker_id=self._recorder.worker, epoch=self._epoch):
            started_at = container.started_at or utc(firing.begins_at)
            await self._runs.start(self._record(state, firing, container, started_at=started_at))

    async def ended(self, state: ScheduleState, firing: Firing, ending: Ending) -> None:
        """A run has ended, or was never begun."""
        ended = ending.ended
        container = ended.container if ended is not None else None
        started_at = (ended.started_at if ended is not None else None) or ending.at
        record = self._record(state, firing, container, started_at=min(started_at, ending.at))
        fields: dict[str, Any] = {"ended_at": ending.at, "reason": ending.reason, "message": ending.message or None}
        if ended is not None:
            fields |= _facts(ended)
            fields["message"] = ending.message or ended.error or None
        began = self._open.get(firing.run_id) or await self._runs.get(firing.run_id)
        if began is not None:
            fields |= {
                "started_at": began.started_at,
                "config_digest": began.config_digest,
                "image_digest": began.image_digest,
                "container_id": record.container_id or began.container_id,
                "code_digest": record.code_digest or began.code_digest,
            }
        await self._runs.finish(replace(record, **fields))
        self._open.pop(firing.run_id, None)

    async def known_end(self, firing: Firing) -> RunRecord | None:
        """The end of this run that somebody saw and wrote down; None if there is none."""
        record = await self._runs.get(firing.run_id)
        return record if record is not None and record.ended_at is not None and not record.presumed else None

    def _record(
        self, state: ScheduleState, firing: Firing, container: ManagedContainer | None, **fields: Any
    ) -> RunRecord:
        return RunRecord(
            run_id=firing.run_id,
            entity_id=state.id,
            segment_id=self._segment_id,
            worker_id=self._recorder.worker,
            host=self._recorder.host,
            epoch=self._epoch,
            revision=container.revision if container is not None else state.entity.revision,
            container_id=container.container_id if container is not None else None,
            code_digest=container.code_etag if container is not None else None,
            scheduled_at=utc(firing.at),
            cause=str(firing.cause),
            attempt=firing.attempt,
            **fields,
        )


async def write_down(runs: RunStore, recorder: Recorder, ended: Sequence[Ended]) -> None:
    """Record the ends of containers that nobody watched: those of workers that are gone."""
    for end in ended:
        container = end.container
        at = end.finished_at or datetime.now(UTC)
        began = await runs.get(container.run_id)
        record = began or RunRecord(
            run_id=container.run_id,
            entity_id=container.id,
            segment_id=container.segment,
            worker_id=container.worker or recorder.worker,
            host=recorder.host,
            epoch=container.epoch,
            started_at=end.started_at or at,
            revision=container.revision,
            container_id=container.container_id,
            code_digest=container.code_etag,
        )
        await runs.finish(
            replace(record, ended_at=at, reason=str(end.reason), message=end.error or None, **_facts(end))
        )


def _facts(ended: Ended) -> dict[str, Any]:
    """What a container's end tells, as the fields of a record."""
    return {
        "exit_code": ended.exit_code,
        "oom_killed": ended.oom_killed,
        "last_lines": tuple(ended.last_lines),
        "peak_memory_bytes": ended.peak_memory_bytes,
        "cpu_seconds": ended.cpu_seconds,
    }


def last_run(firing: Firing, ending: Ending) -> Mapping[str, object]:
    """What the schedule's status says about its last run."""
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
        "message": ending.message,
    }
