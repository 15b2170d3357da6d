"""One attempt of a backtest: start it, collect its output and result, and record its end."""

import asyncio
import math
from dataclasses import dataclass, replace
from typing import Protocol

from prometheus_client import Counter

from libs.core.aio.backoff import Backoff
from libs.core.aio.retrying import retry_forever
from libs.core.aio.wake import Wake
from libs.core.errors import Retryable, UserError
from libs.core.observability.log import get_logger
from libs.core.observability.tracing import current
from libs.core.store.owner_quotas import OwnerQuotas
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.code.definition import ExecutableBuilder
from libs.docker_runner.containers.container import EndReason, ManagedContainer
from libs.docker_runner.errors import NoRoom, StartFailed
from libs.docker_runner.executable import Executable
from libs.docker_runner.runs.attempt import Attempt, AttemptResult, RunKit
from libs.docker_runner.runs.stop_orders import StopOrder
from services.backtest_runner.claims import Claims
from services.backtest_runner.completion import Completion
from services.backtest_runner.records import RunRecords
from services.backtest_runner.result_spool import ResultSpool
from services.backtest_runner.state import BacktestState, Claim, Outcome
from services.backtest_runner.verdict import CANCELLED, LOST, given_up, rejection, verdict_of

log = get_logger(__name__)

RUNS = Counter("runtime_backtest_runs_total", "Attempts of backtests by how they ended.", ["reason"])

START_PATIENCE_SECONDS = 120.0
# A cancelled backtest needs no grace period: its result is not wanted, and it has nothing to clean up.
CANCEL_GRACE_SECONDS = 2.0
_NO_ROOM = "no-room"


@dataclass(frozen=True, kw_only=True)
class BacktestKit(RunKit):
    """The shared parts of the runs of one owned segment.

    Attributes:
        timeout_seconds: time limit of one attempt.
        result_bytes: maximum size of the result of ``main``.
    """

    owned: OwnedSegment
    executables: ExecutableBuilder
    claims: Claims
    quotas: OwnerQuotas
    records: RunRecords
    spool: ResultSpool
    completion: Completion
    timeout_seconds: float
    result_bytes: int
    max_retries: int


class Backtest(Protocol):
    """The backtest of an attempt, as its document requests now."""

    @property
    def state(self) -> BacktestState:
        """Its document as last read."""

    @property
    def gone(self) -> bool:
        """Whether its document is gone."""

    @property
    def unwanted(self) -> bool:
        """Whether it must not run (any more)."""

    @property
    def may_begin(self) -> bool:
        """Whether there is work for it now."""


class BacktestAttempt:
    """One attempt of *run*: the :class:`AttemptPolicy` of backtests."""

    def __init__(self, run: Backtest, claim: Claim, kit: BacktestKit, wake: Wake, before: Claim | None) -> None:
        self._run = run
        self._claim = claim
        self._kit = kit
        self._wake = wake
        self._before = before
        self._begun = False
        self._no_room: NoRoom | None = None
        self._attempt = self._new(may_be_started=before is not None and before.run_id == claim.run_id)
        self.withdrawn = False
        """Whether it does not count, and its claim was released."""

    @property
    def refused(self) -> bool:
        """Whether the engine had no room for it."""
        return self._no_room is not None

    @property
    def has_container(self) -> bool:
        """Whether its container runs."""
        return self._attempt.container is not None

    def changed(self) -> None:
        """Note a change of the container or the document."""
        self._attempt.changed()

    async def carry_out(self) -> Outcome | None:
        """Run once; return None when another attempt follows, or none now."""
        backoff = Backoff(initial_seconds=0.2, cap_seconds=10.0)
        while True:
            try:
                return await self._attempt.carry_out()
            except Retryable as error:
                log.warning("run cannot be collected; its container was removed", reason=str(error))
                self._attempt = self._new(may_be_started=True)
                await self._wake.wait_at_most(backoff.next_seconds())

    def _new(self, *, may_be_started: bool) -> Attempt[Outcome | None]:
        return Attempt(
            self._run.state.id,
            self._claim.run_id,
            kit=self._kit,
            policy=self,
            container_ended=self._kit.records.container_ended,
            backoff=Backoff(initial_seconds=0.2, cap_seconds=10.0),
            wake=self._wake,
            may_be_started=may_be_started,
        )

    # --- the policy

    def stop_order(self) -> StopOrder | None:
        """Return why it must not run: removed, cancelled, held or disabled."""
        if not self._run.unwanted:
            return None
        # The kill switch is for code that cannot be trusted to stop.
        grace = 0.0 if self._run.state.entity.held is not None else self._kit.stop_grace_seconds
        return StopOrder(EndReason.STOPPED, grace, again=True, interrupts=True)

    def build(self) -> Executable:
        """Return the executable of the document."""
        return self._kit.executables.build(self._run.state.entity, self._claim.run_id)

    async def ready(self, executable: Executable, refusal: NoRoom | None) -> bool | AttemptResult:
        """End one without attempts left or without room; else record the attempt."""
        if refusal is not None:
            self._no_room = refusal
            return AttemptResult(_NO_ROOM)
        if self._claim.attempt > self._kit.max_retries + 1:
            await self._attempt.clear()
            return AttemptResult(LOST, "its worker died in every attempt", again=True)
        if not self._begun:
            follows_another = self._before is not None
            await self._kit.records.begin(self._run.state, self._claim, executable, follows_another=follows_another)
            self._begun = True
        return True

    def start_patience_seconds(self, error: Retryable) -> float:
        """Return how long a failing start is retried: limited only for a container that the engine refuses."""
        return START_PATIENCE_SECONDS if isinstance(error, StartFailed) else math.inf

    def rejected(self, error: UserError) -> AttemptResult:
        """Return the result of an error that its owner must correct."""
        return rejection(error)

    async def see_through(self, container: ManagedContainer) -> AttemptResult:
        """Collect its output and its result."""
        kit = self._kit
        if not self._begun:
            await retry_forever(lambda: kit.records.adopt(self._claim, container))
            self._begun = True
        late = StopOrder(EndReason.TIMEOUT)
        collecting = kit.engine.collecting(
            container, kit.result_bytes, kit.timeout_seconds, lambda: kit.owned.is_handed_over
        )
        async with collecting as collection:
            await collection.during(self._attempt.watch(container, kit.timeout_seconds, late))
            outcome = await collection.take()
            self._attempt.container = None
        verdict = verdict_of(outcome, timeout_seconds=kit.timeout_seconds, result_bytes=kit.result_bytes)
        return replace(verdict, ended=outcome.ended, outcome=outcome)

    async def record(self, result: AttemptResult) -> Outcome | None:
        """Store the result; or release or end the attempt so that another one follows."""
        kit, claim, state = self._kit, self._claim, self._run.state
        if self._no_room is not None:
            await self._back_to_queue(self._no_room)
            return None
        if not self._run.may_begin and result.again:
            await self._give_back(result)
            return None
        if result.again and state.cancelled_by is not None:
            await retry_forever(self._attempt.clear)
            result = replace(result, reason=CANCELLED, message=f"cancelled by {state.cancelled_by}", again=False)
        RUNS.labels(result.reason).inc()
        current().set(outcome=result.reason)
        level = log.info if result.succeeded else log.warning
        level("run ended", reason=result.reason, message=result.message)
        if result.again and claim.attempt <= kit.max_retries:
            await retry_forever(lambda: kit.records.end(state, claim, result))
            if result.outcome is not None:
                result.outcome.discard()
            return None
        final = given_up(result, min(claim.attempt, kit.max_retries + 1))
        spooled = await self._put(final)
        await retry_forever(lambda: kit.records.end(state, claim, final))
        return spooled

    async def _put(self, result: AttemptResult) -> Outcome:
        """Store the result on this host's disk, when that has room; a full disk must not repeat a run."""
        backoff = Backoff(initial_seconds=0.5, cap_seconds=10.0)
        while True:
            try:
                return await asyncio.to_thread(self._kit.spool.put, self._claim.run_id, result)
            except OSError as error:
                log.warning("result cannot be kept on this host's disk", reason=str(error))
                await asyncio.sleep(backoff.next_seconds())

    async def _back_to_queue(self, error: NoRoom) -> None:
        """Handle a start without room: the attempt does not count and leaves no record."""
        log.info("backtest waits for room", shortage=str(error.shortage))
        await retry_forever(lambda: self._kit.records.withdrawn(self._claim.run_id))
        detail, need = f"waiting: {error.shortage}", error.shortage.need
        await retry_forever(lambda: self._kit.claims.release(self._run.state.id, self._claim, detail, need))
        self.withdrawn = True

    async def _give_back(self, result: AttemptResult) -> None:
        """Handle a backtest held, disabled or removed meanwhile: the attempt does not count."""
        state, claim = self._run.state, self._claim
        withdrawn = AttemptResult("withdrawn", "it was held, disabled or removed meanwhile", ended=result.ended)
        await retry_forever(lambda: self._kit.records.end(state, claim, withdrawn))
        if result.outcome is not None:
            result.outcome.discard()
        if not self._run.gone:
            await retry_forever(lambda: self._kit.claims.release(state.id, claim))
            self.withdrawn = True
