"""The records of runs in the history, built from what the engine reports about containers."""

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from libs.core.observability.tracing import trace_id
from libs.core.run_record import RunRecord
from libs.docker_runner.containers.container import Ended, EndReason, ManagedContainer
from libs.docker_runner.containers.endings import describe_end
from libs.docker_runner.executable import Executable


@dataclass(frozen=True)
class Recorder:
    """The writer: the worker's name and its Docker host."""

    worker: str
    host: str


class History(Protocol):
    """The store of the records."""

    async def get(self, run_id: str) -> RunRecord | None:
        """Return the run's record; None when it is unknown."""

    async def finish(self, record: RunRecord) -> bool:
        """Record an end; return False when another one was recorded before."""


def of_executable(executable: Executable, recorder: Recorder, started_at: datetime, **more: Any) -> RunRecord:
    """Return the record of a starting run; *more* are fields of the record that only its service knows."""
    # A digest identifies the config without revealing the keys in it.
    config_digest = hashlib.sha256(executable.config_json.encode("utf-8", "replace")).hexdigest()
    return RunRecord(
        run_id=executable.run_id,
        entity_id=executable.id,
        segment_id=executable.segment,
        worker_id=recorder.worker,
        host=recorder.host,
        epoch=executable.epoch,
        started_at=started_at,
        revision=executable.revision,
        config_digest=config_digest,
        image_digest=executable.placement.image,
        trace_id=trace_id(),
        **more,
    )


def of_container(container: ManagedContainer, recorder: Recorder, started_at: datetime, **more: Any) -> RunRecord:
    """Return the record of a run whose start was not recorded: its worker died just then."""
    fields: dict[str, Any] = {"worker_id": container.worker or recorder.worker, "epoch": container.epoch, **more}
    return RunRecord(
        run_id=container.run_id,
        entity_id=container.id,
        segment_id=container.segment,
        host=recorder.host,
        started_at=started_at,
        revision=container.revision,
        container_id=container.container_id,
        code_digest=container.code_etag,
        **fields,
    )


def with_end(
    record: RunRecord, ended: Ended | None, *, reason: str, at: datetime, message: str | None = None
) -> RunRecord:
    """Return *record* with the end of the run. *ended* is None when it had no container."""
    if ended is None:
        return replace(record, ended_at=at, reason=reason, message=message, started_at=min(record.started_at, at))
    container, failure = ended.container, ended.failure
    return replace(
        record,
        ended_at=at,
        reason=reason,
        message=message or ended.error or _told(ended),
        failure=failure.reason if failure is not None else None,
        error_type=failure.type or None if failure is not None else None,
        error_message=failure.message or None if failure is not None else None,
        hint=failure.hint or None if failure is not None else None,
        # The engine may have another clock.
        started_at=min(ended.started_at or record.started_at, at),
        container_id=container.container_id or record.container_id,
        code_digest=container.code_etag or record.code_digest,
        exit_code=ended.exit_code,
        oom_killed=ended.oom_killed,
        last_lines=tuple(ended.last_lines),
        peak_memory_bytes=ended.peak_memory_bytes,
        cpu_seconds=ended.cpu_seconds,
    )


def _told(ended: Ended) -> str | None:
    if ended.failure is not None or ended.reason is EndReason.OOM:
        return describe_end(ended)
    return ended.message or None


async def write_down(
    history: History, recorder: Recorder, ended: Ended, reason: str | None = None, message: str | None = None
) -> bool:
    """Record how a container ended, whether or not its start was recorded. May be repeated.

    Args:
        reason: why it was ended; None for the engine's reason.
        message: a sentence about that; None for the engine's.

    Returns:
        False when another end was recorded before; that one stays.
    """
    at = ended.finished_at or datetime.now(UTC)
    container = ended.container
    record = await history.get(container.run_id) or of_container(container, recorder, ended.started_at or at)
    return await history.finish(with_end(record, ended, reason=reason or str(ended.reason), at=at, message=message))
