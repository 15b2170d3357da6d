"""What a backtest's runs record in the history."""

from datetime import UTC, datetime

from libs.core.observability.tracing import trace_id
from libs.core.run_record import RunRecord
from libs.core.store.runs import RunStore
from libs.docker_runner.containers.container import Ended
from libs.docker_runner.containers.run_records import Recorder, of_executable, with_end
from libs.docker_runner.executable import Executable
from services.backtest_runner.state import BacktestState, Claim
from services.backtest_runner.verdict import Verdict


class RunRecords:
    """The history of runs, for one owned segment. Every write may be repeated."""

    def __init__(self, recorder: Recorder, *, segment_id: int, epoch: int, runs: RunStore) -> None:
        self._recorder = recorder
        self._segment_id = segment_id
        self._epoch = epoch
        self._runs = runs
        self._begun: dict[str, RunRecord] = {}

    async def begun(self, claim: Claim, executable: Executable, *, follows_another: bool) -> None:
        """An attempt begins or goes on here. If it *follows_another* that still looks open, that has ended unseen."""
        if follows_another:
            await self._runs.close_open(
                reason="missing",
                message="its worker died",
                ended_at=datetime.now(UTC),
                entity_id=executable.id,
                keep=[claim.run_id],
            )
        record = of_executable(executable, self._recorder, claim.at, attempt=claim.attempt)
        await self._runs.start(record)
        self._begun[claim.run_id] = record

    async def withdrawn(self, claim: Claim) -> None:
        """Take back the record of an attempt of which no container was made."""
        await self._runs.withdraw(claim.run_id)
        self._begun.pop(claim.run_id, None)

    async def ended(self, state: BacktestState, claim: Claim, verdict: Verdict, ended: Ended | None) -> None:
        """An attempt has ended, or could not begin."""
        record = self._begun.get(claim.run_id) or await self._runs.get(claim.run_id) or self._record(state, claim)
        at = datetime.now(UTC)
        await self._runs.finish(with_end(record, ended, reason=verdict.reason, at=at, message=verdict.error or None))
        self._begun.pop(claim.run_id, None)

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
            trace_id=trace_id(),
        )
