"""The answers of ``/api/v1`` as values; ``/api/v1/openapi.json`` is generated from these types."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from libs.core.master.status import SegmentStatus, WorkerStatus
from libs.core.run_record import RunRecord
from libs.core.store.audit import AuditEntry
from libs.core.store.entity_views import EntityView
from libs.core.store.ownership import Ownership
from libs.core.store.shown_state import run_state


@dataclass(frozen=True)
class Summary:
    """The summary of a service. Fields that only the leader knows are null elsewhere.

    Attributes:
        leader: the leading master, as last read; *leader_url* is its address, if known.
        problem: why segments cannot be read now; empty when they can.
        workers, segments, entities: numbers by role or state.
        ended: runs that ended in the last 24 hours: finished, failed or otherwise. A completed backtest is no
            longer an entity and is counted only here.
    """

    service: str
    master: str
    leads: bool
    leader: str | None
    leader_url: str | None
    problem: str
    workers: dict[str, int] | None
    segments: dict[str, int] | None
    max_segment: int
    entities: dict[str, int]
    ended: dict[str, int]


@dataclass(frozen=True)
class WorkerPage:
    """Workers by id. *next* is the ``after`` of the next page; null on the last one."""

    workers: Sequence[WorkerStatus]
    total: int
    next: str | None


@dataclass(frozen=True)
class SegmentPage:
    """Segments with entities, by number. *next* is the ``after`` of the next page; null on the last one."""

    segments: Sequence[SegmentStatus]
    total: int
    next: int | None


@dataclass(frozen=True)
class EntityPage:
    """Entities by id. *next* is the ``after`` of the next page; null on the last one."""

    entities: Sequence[EntityView]
    next: str | None


@dataclass(frozen=True)
class AuditPage:
    """Entries of the audit record, the latest first. *next* is the ``before`` of the next page; null on the last."""

    entries: Sequence[AuditEntry]
    next: datetime | None


@dataclass(frozen=True)
class RunView:
    """One run from the history; the fields from *ended_at* on are null while it is active.

    Attributes:
        state: why it ended, or ``running``; ``unknown`` when its worker is gone and its end was not observed.
        failure: the bot's failure, in one word; null when it did not fail.
        error_type, error_message: of the exception raised by main.
        hint: the remedy, with the command; null when unknown.
    """

    run_id: str
    entity_id: str
    segment: int
    worker: str
    host: str
    epoch: int
    started_at: datetime
    ended_at: datetime | None
    seconds: float | None
    reason: str | None
    failed: bool
    message: str
    failure: str | None
    error_type: str | None
    error_message: str | None
    hint: str | None
    exit_code: int | None
    oom_killed: bool | None
    last_lines: Sequence[str]
    peak_memory_bytes: int | None
    cpu_seconds: float | None
    presumed: bool
    revision: int | None
    container_id: str | None
    code_digest: str | None
    image_digest: str | None
    scheduled_at: datetime | None
    cause: str | None
    attempt: int | None
    trace_id: str | None
    state: str = ""


@dataclass(frozen=True)
class RunPage:
    """Runs, newest first. *next* is the ``before`` of the next page; null on the last one."""

    runs: Sequence[RunView]
    next: datetime | None


FAILURES = (
    *("error", "oom", "timeout", "killed", "lease-lost", "missing", "node-lost", "evicted", "not-started", "rejected"),
    # Of backtests.
    *("exception", "result", "code-missing", "data-missing", "bad-archive", "unknown-runtime", "lost"),
)
"""The end reasons that count as failures of a run."""


def by_outcome(reasons: Mapping[str, int]) -> dict[str, int]:
    """How many runs ended well, badly or otherwise, of so many for each reason; those without any are left out."""
    counted: Counter[str] = Counter()
    for reason, number in reasons.items():
        counted["failed" if reason in FAILURES else "finished" if reason == "finished" else "stopped"] += number
    return dict(sorted(counted.items()))


def run_view(run: RunRecord, owner: Ownership | None = None) -> RunView:
    """A run without the digest of its config, by which a guess at what is in that could be checked.

    Args:
        owner: who has its segment, for a run without an end.
    """
    return RunView(
        run_id=run.run_id,
        entity_id=run.entity_id,
        segment=run.segment_id,
        worker=run.worker_id,
        host=run.host,
        epoch=run.epoch,
        started_at=run.started_at,
        ended_at=run.ended_at,
        seconds=run.duration_seconds,
        reason=run.reason,
        failed=run.reason in FAILURES,
        message=run.message or "",
        failure=run.failure,
        error_type=run.error_type,
        error_message=run.error_message,
        hint=run.hint,
        exit_code=run.exit_code,
        oom_killed=run.oom_killed,
        last_lines=run.last_lines,
        peak_memory_bytes=run.peak_memory_bytes,
        cpu_seconds=run.cpu_seconds,
        presumed=run.presumed,
        revision=run.revision,
        container_id=run.container_id,
        code_digest=run.code_digest,
        image_digest=run.image_digest,
        scheduled_at=run.scheduled_at,
        cause=run.cause,
        attempt=run.attempt,
        trace_id=run.trace_id,
        state=run.reason or run_state(run.worker_id, owner),
    )


def plain(value: object) -> object:
    """*value* as JSON has it: dataclasses as objects, times as RFC 3339, enums by their value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
