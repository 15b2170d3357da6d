"""One run as stored in the history."""

from dataclasses import dataclass
from datetime import datetime

from libs.core.leases.lease import LeaseView


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run of one entity, from its start; the fields from *ended_at* on are None while it runs.

    Times are aware datetimes. *reason* is one word (``finished``, ``error``, ``oom``, ``timeout``,
    ``stopped``, ``lease-lost``, ``killed``, ``missing``, ``node-lost``, ``evicted``), *message* a sentence with further
    details.
    *failure* names the bot's failure in one word (``exception``, ``main-missing``, ``signature``,
    ``result-too-large``, ...), *error_type* and *error_message* are the exception's, and *hint* is the remedy.
    *presumed*: the end was not observed but concluded afterwards; a report of the actual end replaces it.
    *stop_deadline*: until when, by MongoDB's time, its container may stop although its segment was given away;
    *stop_seconds* is by how much that was ahead. None while the container lives under its owner's lease alone.
    *scheduled_at*, *cause* and *attempt* (from 1 on) belong to a schedule's firing; None otherwise. *trace_id* is
    the id of the trace in which it started. *parameters* is the config of a backtest as JSON, with secrets masked.
    """

    run_id: str
    entity_id: str
    segment_id: int
    worker_id: str
    host: str
    epoch: int
    started_at: datetime
    revision: int | None = None
    container_id: str | None = None
    code_digest: str | None = None
    config_digest: str | None = None
    image_digest: str | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    reason: str | None = None
    message: str | None = None
    failure: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    hint: str | None = None
    oom_killed: bool | None = None
    last_lines: tuple[str, ...] = ()
    peak_memory_bytes: int | None = None
    cpu_seconds: float | None = None
    presumed: bool = False
    scheduled_at: datetime | None = None
    cause: str | None = None
    attempt: int | None = None
    trace_id: str | None = None
    stop_deadline: datetime | None = None
    stop_seconds: float | None = None
    parameters: str | None = None

    def may_live_under(self, lease: LeaseView | None) -> bool:
        """Whether the container of this run, which has no end yet, may be alive under the segment's live *lease*.

        The container ends when the lease under which it was started ends.
        """
        if lease is None:
            return False
        # A new owner on the same host keeps running containers alive before it has inspected them.
        return lease.epoch == self.epoch or lease.holder.host == self.host

    @property
    def duration_seconds(self) -> float | None:
        """The duration of the run; None while it runs."""
        return (self.ended_at - self.started_at).total_seconds() if self.ended_at is not None else None
