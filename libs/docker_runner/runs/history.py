"""The run history of one owned segment: starts, adoptions and ends."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Protocol

from libs.core.observability.tracing import trace_id
from libs.core.run_record import RunRecord
from libs.docker_runner.containers.container import Ended, ManagedContainer
from libs.docker_runner.containers.run_records import (
    History,
    Recorder,
    of_container,
    of_executable,
    with_end,
    write_down,
)
from libs.docker_runner.executable import Executable
from libs.docker_runner.runs.attempt import AttemptResult


class Deployed(Protocol):
    """The fields of an entity that its run records contain."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def revision(self) -> int:
        """The number of its changes."""


class OpenHistory(History, Protocol):
    """The store of the records, including those of open runs."""

    async def start(self, record: RunRecord) -> None:
        """Record the start of a run."""

    async def adopt(
        self, run_id: str, *, worker_id: str, epoch: int, container_id: str | None, code_digest: str | None
    ) -> bool:
        """Record the current owner of a run; False when the run is unknown or its end is recorded."""

    async def close_open(
        self,
        *,
        reason: str,
        message: str,
        ended_at: datetime,
        segment_id: int | None,
        before_epoch: int | None,
        keep: Collection[str],
        are_over: bool = False,
    ) -> int:
        """Record ends that were not observed, except for the runs *keep*."""

    async def withdraw(self, run_id: str) -> None:
        """Remove the record of a run without a container."""


class RunHistory:
    """Writes the history of one owned segment. Every write may be repeated."""

    def __init__(self, recorder: Recorder, *, segment_id: int, epoch: int, runs: OpenHistory) -> None:
        self._recorder = recorder
        self._segment_id = segment_id
        self._epoch = epoch
        self._history = runs
        self._open: dict[str, RunRecord] = {}

    def begins(self, executable: Executable, started_at: datetime, **more: Any) -> RunRecord:
        """Return the record of a run before its start; *more* are fields of its service."""
        record = self._open[executable.run_id] = of_executable(executable, self._recorder, started_at, **more)
        return record

    async def adopted(self, container: ManagedContainer, started_at: datetime, **more: Any) -> None:
        """Record that the run of *container* is this worker's; *started_at* and *more* are used if it has no record."""
        worker, epoch = self._recorder.worker, self._epoch
        found = await self._history.adopt(
            container.run_id,
            worker_id=worker,
            epoch=epoch,
            container_id=container.container_id,
            code_digest=container.code_etag,
        )
        if not found:
            record = of_container(container, self._recorder, started_at, worker_id=worker, epoch=epoch, **more)
            await self._history.start(record)

    async def ended(
        self, entity: Deployed, run_id: str, result: AttemptResult, started_at: datetime, **more: Any
    ) -> None:
        """Record the end of a run, started or not; *started_at* and *more* are used if it has no record yet."""
        record = self._open.get(run_id) or await self._history.get(run_id)
        if record is None:
            record = RunRecord(
                run_id=run_id,
                entity_id=entity.id,
                segment_id=self._segment_id,
                worker_id=self._recorder.worker,
                host=self._recorder.host,
                epoch=self._epoch,
                started_at=started_at,
                revision=entity.revision,
                trace_id=trace_id(),
                **more,
            )
        message = result.message or None
        await self._history.finish(with_end(record, result.ended, reason=result.reason, at=result.at, message=message))
        self._open.pop(run_id, None)

    async def withdrawn(self, run_id: str) -> None:
        """Remove the record of a run without a container."""
        await self._history.withdraw(run_id)
        self._open.pop(run_id, None)

    async def close_earlier(self, alive: Collection[str], *, are_over: bool = False) -> None:
        """Close the open runs of earlier owners of the segment, except for the active runs *alive*.

        Runs with a last deadline are included only if *are_over*.

        The record of a run that never started stays open when its entity is deleted before its next start.
        """
        await self._history.close_open(
            reason="missing",
            message="its worker died, and its container no longer existed at the takeover",
            ended_at=datetime.now(UTC),
            segment_id=self._segment_id,
            before_epoch=self._epoch,
            keep=alive,
            are_over=are_over,
        )

    async def container_ended(self, ended: Ended, reason: str | None = None, message: str | None = None) -> None:
        """Record the end of a container without an attempt; *reason* and *message* replace those of the engine."""
        await write_down(self._history, self._recorder, ended, reason, message)
