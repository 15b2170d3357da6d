"""What a backtest's runs leave in the history."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from libs.core.store.runs import RunRecord, RunStore
from libs.docker_runner.container import Ended
from libs.docker_runner.executable import Executable
from services.backtest_runner.state import BacktestState, Claim
from services.backtest_runner.verdict import Verdict


@dataclass(frozen=True)
class Recorder:
    """Who writes: the worker's name and its Docker host."""

    worker: str
    host: str


class RunRecords:
    """The history of runs, for one owned segment. Every write may be repeated."""

    def __init__(self, recorder: Recorder, *, segment_id: int, epoch: int, runs: RunStore) -> None:
        self._recorder = recorder
        self._segment_id = segment_id
        self._epoch = epoch
        self._runs = runs

    async def begun(self, state: BacktestState, claim: Claim, executable: Executable) -> None:
        """An attempt begins or goes on here; an earlier one that still looks open has ended unseen."""
        await self._runs.close_open(
            reason="missing",
            message="its worker died",
            ended_at=datetime.now(UTC),
            entity_id=state.id,
            keep=[claim.run_id],
        )
        # A digest tells which config it was without telling the keys in it.
        digest = hashlib.sha256(executable.config_json.encode("utf-8", "replace")).hexdigest()
        record = replace(self._record(state, claim), config_digest=digest, image_digest=executable.placement.image)
        await self._runs.start(record)

    async def ended(self, state: BacktestState, claim: Claim, verdict: Verdict, ended: Ended | None) -> None:
        """An attempt has ended, or could not begin."""
        began = await self._runs.get(claim.run_id)
        fields: dict[str, Any] = {
            "ended_at": datetime.now(UTC),
            "reason": verdict.reason,
            "message": verdict.error or None,
        }
        if ended is not None:
            fields |= _facts(ended)
        await self._runs.finish(replace(began or self._record(state, claim), **fields))

    def _record(self, state: BacktestState, claim: Claim) -> RunRecord:
        return RunRecord(
            run_id=claim.run_id,
            entity_id=state.id,
            segment_id=self._segment_id,
            worker_id=self._recorder.worker,
            host=self._recorder.host,
            epoch=self._epoch,
            started_at=claim.at,
            revision=state.entity.revision,
            attempt=claim.attempt,
        )


async def write_down(runs: RunStore, recorder: Recorder, ended: Sequence[Ended]) -> None:
    """Record the ends of containers that nobody watched: those of workers that are gone."""
    for end in ended:
        container = end.container
        at = end.finished_at or datetime.now(UTC)
        record = await runs.get(container.run_id) or RunRecord(
            run_id=container.run_id,
            entity_id=container.id,
            segment_id=container.segment,
            worker_id=container.worker or recorder.worker,
            host=recorder.host,
            epoch=container.epoch,
            started_at=end.started_at or at,
            revision=container.revision,
        )
        fields = {"ended_at": at, "reason": str(end.reason), "message": end.error or None, **_facts(end)}
        await runs.finish(replace(record, **fields))


def _facts(ended: Ended) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "container_id": ended.container.container_id,
        "code_digest": ended.container.code_etag,
        "exit_code": ended.exit_code,
        "oom_killed": ended.oom_killed,
        "last_lines": tuple(ended.last_lines),
        "peak_memory_bytes": ended.peak_memory_bytes,
        "cpu_seconds": ended.cpu_seconds,
    }
    return facts | ({"started_at": ended.started_at} if ended.started_at is not None else {})
