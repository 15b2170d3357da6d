"""The history of a backtest's runs."""

from datetime import UTC, datetime

from libs.core.store.runs import RunStore
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.containers.run_records import Recorder
from libs.docker_runner.executable import Executable
from libs.docker_runner.runs.attempt import AttemptResult
from libs.docker_runner.runs.history import RunHistory
from services.backtest_runner.parameters import Parameters
from services.backtest_runner.state import BacktestState, Claim


class RunRecords(RunHistory):
    """The history of backtests' attempts, for one owned segment. Every write may be repeated."""

    def __init__(self, recorder: Recorder, *, segment_id: int, epoch: int, runs: RunStore) -> None:
        super().__init__(recorder, segment_id=segment_id, epoch=epoch, runs=runs)
        self._runs = runs

    async def begin(self, state: BacktestState, claim: Claim, executable: Executable, *, follows_another: bool) -> None:
        """Record the start of an attempt. An open previous one (*follows_another*) is closed as unobserved."""
        if follows_another:
            await self._close_others(executable.id, claim)
        parameters = Parameters.of(state.entity).to_text()
        await self._runs.start(self.begins(executable, claim.at, attempt=claim.attempt, parameters=parameters))

    async def adopt(self, claim: Claim, container: ManagedContainer) -> None:
        """Record that the attempt of an earlier owner continues here."""
        await self._close_others(container.id, claim)
        await self.adopted(container, claim.at, attempt=claim.attempt)

    async def end(self, state: BacktestState, claim: Claim, result: AttemptResult) -> None:
        """Record that an attempt has ended, or could not start."""
        parameters = Parameters.of(state.entity).to_text()
        await self.ended(state.entity, claim.run_id, result, claim.at, attempt=claim.attempt, parameters=parameters)

    async def _close_others(self, backtest_id: str, claim: Claim) -> None:
        await self._runs.close_open(
            reason="missing",
            message="its worker died",
            ended_at=datetime.now(UTC),
            entity_id=backtest_id,
            keep=[claim.run_id],
        )
