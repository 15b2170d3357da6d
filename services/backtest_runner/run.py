"""One backtest, from its claim until its document is gone: run it, retry it, hand over the result."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from prometheus_client import Counter

from libs.core.aio.backoff import Backoff
from libs.core.aio.retrying import retry_forever
from libs.core.aio.wake import Wake
from libs.core.errors import Retryable, UserError
from libs.core.observability.log import bound_context, get_logger
from libs.core.observability.tracing import Attributes, current, span
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.code.definition import ExecutableBuilder
from libs.docker_runner.containers.container import ContainerState, Ended, ManagedContainer, RunOutcome
from libs.docker_runner.engine.room_view import EngineRoom
from libs.docker_runner.errors import AlreadyRunning, NoRoom, StartFailed
from libs.docker_runner.executable import Executable, new_run_id
from services.backtest_runner.claims import Claims
from services.backtest_runner.completion import Completion
from services.backtest_runner.records import RunRecords
from services.backtest_runner.result_spool import ResultSpool, SpooledResult
from services.backtest_runner.state import BacktestState, Claim, Outcome
from services.backtest_runner.verdict import CANCELLED, LOST, NOT_STARTED, Verdict, rejection, verdict_of

log = get_logger(__name__)

RUNS = Counter("runtime_backtest_runs_total", "Attempts of backtests by how they ended.", ["reason"])

START_PATIENCE_SECONDS = 120.0
_UNPROVEN_SECONDS = 0.2
_LAST_WRITES_SECONDS = 5.0
_CANCEL_GRACE_SECONDS = 2.0


class Runner(Protocol):
    """What a run needs of the docker runner."""

    async def run(self, executable: Executable, timeout_seconds: float) -> RunOutcome:
        """Run it to its end."""

    async def stop(self, container: ManagedContainer, grace_seconds: float = 30.0) -> Ended:
        """End it."""

    async def remove(self, container: ManagedContainer) -> Ended:
        """Take it away."""


@dataclass(frozen=True)
class RunKit:
    """What the runs of one owned segment share.

    Attributes:
        containers: the segment's containers as they are now.
        timeout_seconds: of one attempt.
    """

    owned: OwnedSegment
    runner: Runner
    containers: Callable[[], Awaitable[list[ManagedContainer]]]
    executables: ExecutableBuilder
    claims: Claims
    records: RunRecords
    spool: ResultSpool
    completion: Completion
    room: EngineRoom
    timeout_seconds: float
    max_retries: int
    stop_grace_seconds: float = 30.0


class BacktestRun:
    """Carries one backtest through. Cancelled, it ends its container and leaves the rest to the next owner."""

    def __init__(self, state: BacktestState, kit: RunKit) -> None:
        self._state = state
        self._claim = state.claim
        self._kit = kit
        self._wake = Wake()
        self._gone = False
        self.refused = False
        """Whether the engine had no room for it after all, so that it goes back to the queue."""
        self.has_container = False
        self.slot_left = state.outcome is not None
        """Whether nothing of it will be run any more."""
        self.on_slot_left: Callable[[], None] = lambda: None

    @property
    def state(self) -> BacktestState:
        """What its document said last."""
        return self._state

    def update(self, state: BacktestState | None) -> None:
        """What the document says now; None when it is gone."""
        if state is None:
            self._gone = True
        else:
            self._state = state
        self._wake.set()

    async def carry_out(self) -> None:
        """Return when the backtest is done with, or not ours to run now."""
        state = self._state
        about: Attributes = {"runtime.id": state.id, "runtime.segment": self._kit.owned.segment_id}
        made = span("carry out backtest", parent=state.entity.trace, links=[self._kit.owned.trace], attributes=about)
        with bound_context(backtest=state.id), made:
            outcome = self._state.outcome
            if outcome is None:
                found = await self._spooled()
                self._leave_slot()
                if found is None:
                    return
                outcome = await self._last_write(self._decided(*found))
            if outcome is not None:
                with span("hand over backtest"):
                    while await self._unproven():
                        pass  # its segment is taken from it soon, and then this is cancelled
                    attempts = self._claim.attempt if self._claim is not None else 0
                    await self._last_write(self._kit.completion.hand_over(self._state.entity, outcome, attempts))
                log.info("backtest done", success=outcome.success, reason=outcome.reason, run=outcome.run_id)

    async def _unproven(self) -> bool:
        """Whether this was frozen or cut off, so that another may own it by now; if so, returns a little later."""
        if self._kit.owned.proven():
            return False
        await self._wake.wait_at_most(_UNPROVEN_SECONDS)
        return True

    def _leave_slot(self) -> None:
        self.slot_left = True
        self.on_slot_left()

    # --- attempts

    async def _spooled(self) -> tuple[Claim, SpooledResult] | None:
        """What the last attempt came to; None when this backtest is not to be run here now."""
        while not self._gone and self._state.may_begin:
            if await self._unproven():
                continue
            with span("claim backtest"):
                before = self._claim
                claim = self._claim = await self._claimed(before)
            if claim is None:
                return None
            adopted = before is not None and before.run_id == claim.run_id
            about: Attributes = {"runtime.run_id": claim.run_id, "runtime.attempt": claim.attempt}
            with bound_context(run=claim.run_id, attempt=claim.attempt), span("run backtest", attributes=about):
                known = await asyncio.to_thread(self._kit.spool.get, claim.run_id) if adopted else None
                if known is not None:
                    log.info("completed run is handed over")
                    await self._note_end(claim, known)
                    return claim, known
                try:
                    found = await self._attempt(claim, before)
                except NoRoom as error:
                    await self._back_to_queue(claim, error)
                    return None
            if found is not None:
                return claim, found
        return None

    async def _note_end(self, claim: Claim, known: SpooledResult) -> None:
        """Its worker may have died before it wrote that down. What was written stays."""
        await retry_forever(lambda: self._kit.records.ended(self._state, claim, known.verdict, None))

    async def _claimed(self, before: Claim | None) -> Claim | None:
        """The claim to run under: that of the run before, if it can go on here. None when it is not to be ours."""
        kit, asked = self._kit, self._state
        if before is not None and await self._may_go_on(before):
            claim = kit.claims.with_owner(before)
        else:
            claim = kit.claims.next_of(before, new_run_id(), datetime.now(UTC))
        claimed = await retry_forever(lambda: kit.claims.write(replace(asked, claim=before), claim))
        if claimed is None:
            return None
        # What was read since may know of a wish that this does not.
        if self._state is asked or self._state.entity.revision < claimed.entity.revision:
            self._state = claimed
        return claim

    async def _may_go_on(self, claim: Claim) -> bool:
        """Whether the run of an earlier claim is alive here, or its end is known here."""
        if await asyncio.to_thread(self._kit.spool.get, claim.run_id) is not None:
            return True
        container = await self._container(claim.run_id)
        return container is not None and container.state is ContainerState.RUNNING

    async def _attempt(self, claim: Claim, before: Claim | None) -> SpooledResult | None:
        """Run once; None when there is to be another attempt, or none now."""
        kit, state = self._kit, self._state
        outcome: RunOutcome | None = None
        if state.cancelled_by is not None:
            await self._end_container(None)
            verdict = _cancelled(state)
        elif claim.attempt > kit.max_retries + 1:
            await self._end_container(None)
            verdict = Verdict(LOST, "its worker died each time", again=True)
        else:
            try:
                executable = kit.executables.build(state.entity, claim.run_id)
                await retry_forever(lambda: kit.records.begun(claim, executable, follows_another=before is not None))
                verdict, outcome = await self._run(executable)
            except UserError as error:
                verdict = rejection(error)
        if (self._gone or not self._state.may_begin) and verdict.again:
            await self._give_back(claim, outcome)
            return None
        if verdict.again and self._state.cancelled_by is not None:
            verdict = _cancelled(self._state)
        RUNS.labels(verdict.reason).inc()
        current().set(outcome=verdict.reason)
        ended = outcome.ended if outcome is not None else None
        level = log.info if verdict.success else log.warning
        level("run ended", reason=verdict.reason, message=verdict.error)
        if verdict.again and claim.attempt <= kit.max_retries:
            await retry_forever(lambda: kit.records.ended(state, claim, verdict, ended))
            if outcome is not None:
                outcome.discard()
            return None
        final = verdict.after(min(claim.attempt, kit.max_retries + 1))
        spooled = await self._put(claim.run_id, final, outcome)
        await retry_forever(lambda: kit.records.ended(state, claim, final, ended))
        return spooled

    async def _put(self, run_id: str, verdict: Verdict, outcome: RunOutcome | None) -> SpooledResult:
        """Keep what the run came to on this host's disk, once that has room; a run is not repeated for want of it."""
        backoff = Backoff(initial_seconds=0.5, cap_seconds=10.0)
        while True:
            try:
                return await asyncio.to_thread(self._kit.spool.put, run_id, verdict, outcome)
            except OSError as error:
                log.warning("result cannot be kept on this host's disk", reason=str(error))
                await asyncio.sleep(backoff.next_seconds())

    async def _back_to_queue(self, claim: Claim, error: NoRoom) -> None:
        """Others were faster to the engine's room: the attempt does not count and leaves no trace."""
        log.info("backtest waits for room", shortage=str(error.shortage))
        self.refused = True
        await retry_forever(lambda: self._kit.records.withdrawn(claim))
        detail, need = f"waiting: {error.shortage}", error.shortage.need
        await retry_forever(lambda: self._kit.claims.release(self._state.id, claim, detail, need))

    async def _give_back(self, claim: Claim, outcome: RunOutcome | None) -> None:
        """Held, disabled or removed meanwhile: the attempt does not count, and nothing comes of it."""
        ended = outcome.ended if outcome is not None else None
        withdrawn = Verdict("withdrawn", "it was held, disabled or removed meanwhile")
        await retry_forever(lambda: self._kit.records.ended(self._state, claim, withdrawn, ended))
        if outcome is not None:
            outcome.discard()
        if not self._gone:
            await retry_forever(lambda: self._kit.claims.release(self._state.id, claim))
            self._claim = replace(claim, released=True)

    # --- one run

    async def _run(self, executable: Executable) -> tuple[Verdict, RunOutcome | None]:
        """Run it, again and again if it does not even start for a reason that may pass."""
        kit = self._kit
        backoff = Backoff(initial_seconds=0.2, cap_seconds=10.0)
        give_up_at = asyncio.get_running_loop().time() + START_PATIENCE_SECONDS
        while True:
            if self._unwanted():
                return Verdict("stopped", "it was not begun any more", again=True), None
            if await self._unproven():
                continue
            try:
                outcome = await self._watched(executable)
            except AlreadyRunning:
                await self._end_container(executable.run_id)
            except NoRoom:
                raise
            except Retryable as error:
                log.warning("run not started", reason=str(error))
                if isinstance(error, StartFailed) and asyncio.get_running_loop().time() > give_up_at:
                    return Verdict(NOT_STARTED, str(error), again=True), None
                await self._wake.wait_at_most(backoff.next_seconds())
            else:
                if outcome is None:
                    continue
                limits = executable.limits
                return (
                    verdict_of(outcome, timeout_seconds=kit.timeout_seconds, result_bytes=limits.result_bytes),
                    outcome,
                )

    async def _watched(self, executable: Executable) -> RunOutcome | None:
        """Run it; end it when it is not wanted any more. None when it was not there yet."""
        self.has_container = True
        running = asyncio.create_task(self._kit.runner.run(executable, self._kit.timeout_seconds), name="run")
        watching = asyncio.create_task(self._until_unwanted(), name="is it wanted")
        try:
            await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                container = await self._container(executable.run_id)
                if container is None or container.state is ContainerState.CREATED:
                    return None
                # The kill switch is for the moment when the code itself cannot be trusted to stop. Who cancels has no
                # use for what is still to come, and a backtest leaves nothing behind that must be put in order.
                grace = min(self._kit.stop_grace_seconds, _CANCEL_GRACE_SECONDS)
                grace = 0.0 if self._state.entity.held is not None else grace
                await retry_forever(lambda: self._kit.runner.stop(container, grace))
            return await running
        finally:
            self.has_container = False
            for task in (running, watching):
                task.cancel()
            await asyncio.gather(running, watching, return_exceptions=True)

    async def _until_unwanted(self) -> None:
        while not self._unwanted():
            await self._wake.wait_at_most(None)

    def _unwanted(self) -> bool:
        return self._gone or self._state.cancelled_by is not None or not self._state.entity.should_run

    async def _container(self, run_id: str) -> ManagedContainer | None:
        containers = await retry_forever(self._kit.containers)
        return next((c for c in containers if c.run_id == run_id and c.id == self._state.id), None)

    async def _end_container(self, but_of_run: str | None) -> None:
        """End what an earlier attempt left running."""
        for container in await retry_forever(self._kit.containers):
            if container.id == self._state.id and container.run_id != but_of_run:
                log.warning("container of an earlier attempt is stopped", container=container.name)
                await retry_forever(lambda c=container: self._kit.runner.remove(c))  # type: ignore[misc]

    # --- the end

    async def _decided(self, claim: Claim, spooled: SpooledResult) -> Outcome | None:
        outcome = await self._kit.completion.decide(self._state, claim.run_id, spooled)
        await asyncio.to_thread(self._kit.spool.drop, claim.run_id)
        return outcome

    async def _last_write(self, write: "Awaitable[Outcome | None]") -> Outcome | None:
        """See *write* through even when cancelled meanwhile, for a few seconds."""
        task = asyncio.ensure_future(write)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._kit.owned.proven():
                await asyncio.wait({task}, timeout=_LAST_WRITES_SECONDS)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            raise


def _cancelled(state: BacktestState) -> Verdict:
    return Verdict(CANCELLED, f"cancelled by {state.cancelled_by}")
