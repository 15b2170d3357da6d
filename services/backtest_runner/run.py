"""One backtest, from its claim to the removal of its document: run it, retry it, complete it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from libs.core.aio.retrying import retry_forever
from libs.core.aio.wake import Wake
from libs.core.errors import UserError
from libs.core.observability.log import bound_context, get_logger
from libs.core.observability.tracing import Attributes, span
from libs.core.process.isolation import isolated
from libs.core.room import Need
from libs.core.store.owner_quotas import Place
from libs.docker_runner.containers.container import ContainerState
from libs.docker_runner.executable import new_run_id
from libs.docker_runner.runs.attempt import AttemptResult
from services.backtest_runner.attempt import BacktestAttempt, BacktestKit
from services.backtest_runner.state import BacktestState, Claim, Outcome

log = get_logger(__name__)

_UNPROVEN_SECONDS = 0.2
_LAST_WRITES_SECONDS = 5.0


class BacktestRun:
    """Runs one backtest to its completion. If cancelled, it stops its container and leaves the rest to the next owner.

    If its segment is handed over to another worker of the engine, the container runs on.

    Args:
        on_slot_left: called once it will not run any more.
    """

    def __init__(self, state: BacktestState, kit: BacktestKit, *, on_slot_left: Callable[[], None]) -> None:
        self._state = state
        self._claim = state.claim
        self._kit = kit
        self._wake = Wake()
        self.gone = False
        self._attempt: BacktestAttempt | None = None
        self.refused = False
        """Whether the engine had no room for it, so that it goes back to the queue."""
        self.over_quota = ""
        """Why the quota of its owner does not permit it now, so that it goes back to the queue."""
        self._admitted_as: Claim | None = None
        self.slot_left = state.outcome is not None
        """Whether it will not run any more."""
        self._on_slot_left = on_slot_left

    @property
    def state(self) -> BacktestState:
        """Its document as last read."""
        return self._state

    @property
    def has_container(self) -> bool:
        """Whether its container runs."""
        return self._attempt is not None and self._attempt.has_container

    @property
    def unwanted(self) -> bool:
        """Whether it must not run (any more)."""
        return self.gone or self._state.cancelled_by is not None or not self._state.entity.should_run

    @property
    def may_begin(self) -> bool:
        """Whether there is work for it now."""
        return not self.gone and self._state.may_begin

    def update(self, state: BacktestState | None) -> None:
        """Use the current document; None when it is gone."""
        if state is None:
            self.gone = True
        else:
            self._state = state
        self.changed()

    def changed(self) -> None:
        """Note a change of the container or the document."""
        self._wake.set()
        if self._attempt is not None:
            self._attempt.changed()

    async def carry_out(self) -> None:
        """Return when the backtest is completed, or must not run here now."""
        state = self._state
        about: Attributes = {"runtime.id": state.id, "runtime.segment": self._kit.owned.segment_id}
        made = span("carry out backtest", parent=state.entity.trace, links=[self._kit.owned.trace], attributes=about)
        with bound_context(backtest=state.id), made:
            outcome = self._state.outcome
            if outcome is None:
                found = await self._ended()
                await self._give_place_up()
                self._leave_slot()
                if found is None:
                    return
                outcome = await self._last_write(self._decided(found))
            if outcome is not None:
                with span("hand over backtest"):
                    while await self._unproven():
                        pass  # its segment is lost soon, which cancels this
                    attempts = self._claim.attempt if self._claim is not None else 0
                    await self._last_write(self._kit.completion.hand_over(self._state.entity, outcome, attempts))
                log.info("backtest done", success=outcome.success, reason=outcome.reason, run=outcome.run_id)

    async def _unproven(self) -> bool:
        """Whether this was frozen or disconnected, so that it may have another owner; then return after a delay."""
        if self._kit.owned.proven():
            return False
        await self._wake.wait_at_most(_UNPROVEN_SECONDS)
        return True

    def _leave_slot(self) -> None:
        self.slot_left = True
        self._on_slot_left()

    # --- attempts

    async def _ended(self) -> Outcome | None:
        """Return the end of the last attempt, by the spool; None when this backtest must not run here now."""
        while self.may_begin:
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
                    return known
                attempt = self._attempt = BacktestAttempt(self, claim, self._kit, self._wake, before)
                try:
                    found = await attempt.carry_out()
                finally:
                    self._attempt = None
            if found is not None:
                return found
            if attempt.withdrawn:
                self._claim, self.refused = replace(claim, released=True), attempt.refused
            if self.refused:
                return None
        return None

    async def _note_end(self, claim: Claim, known: Outcome) -> None:
        """Record the end again: its worker may have died before it did. A recorded end stays."""
        result = AttemptResult(known.reason, known.error, at=known.ended_at)
        await retry_forever(lambda: self._kit.records.end(self._state, claim, result))

    async def _claimed(self, before: Claim | None) -> Claim | None:
        """Return the claim to run under: the previous one, if its run can continue here. None without a claim."""
        kit, asked = self._kit, self._state
        if before is not None and await self._may_go_on(before):
            claim = kit.claims.with_owner(before)
            await retry_forever(lambda: kit.quotas.count(self._place(claim), claim.run_id))
            self._admitted_as = claim
        else:
            claim = kit.claims.next_of(before, new_run_id(), datetime.now(UTC))
            if not await self._admitted(claim):
                return None
        claimed = await retry_forever(lambda: kit.claims.write(replace(asked, claim=before), claim))
        if claimed is None:
            return None
        # A later read may contain a cancellation that this one does not.
        if self._state is asked or self._state.entity.revision < claimed.entity.revision:
            self._state = claimed
        return claim

    async def _admitted(self, claim: Claim) -> bool:
        """Whether the quota of its owner permits another attempt; else say in its document that it waits."""
        kit, state = self._kit, self._state
        if state.cancelled_by is not None:
            return True  # it is not started
        self.over_quota = await retry_forever(lambda: kit.quotas.admit(self._place(claim)))
        if self.over_quota == "":
            self._admitted_as = claim
            return True
        detail = f"waiting: {self.over_quota}"
        if state.entity.status.get("detail") != detail:
            await retry_forever(lambda: kit.claims.waits(replace(state, claim=self._claim), detail, None))
        return False

    def _place(self, claim: Claim) -> Place:
        """Return its place within the quota of its owner."""
        entity, executables = self._state.entity, self._kit.executables
        try:
            need = executables.room(entity).need
        except UserError:
            need = Need()  # it is about to be rejected
        return Place(entity.id, entity.owner(executables.settings.owner_field), claim.run_id, need)

    async def _give_place_up(self) -> None:
        """Give its place up. A failure is repaired by the next claim that lacks a place."""
        if self._admitted_as is not None:
            place, self._admitted_as = self._place(self._admitted_as), None
            with isolated("give up place", passing=()):
                await self._kit.quotas.give_up(place)

    async def _may_go_on(self, claim: Claim) -> bool:
        """Whether the run of an earlier claim is alive here, or its end is known here."""
        if await asyncio.to_thread(self._kit.spool.get, claim.run_id) is not None:
            return True
        containers = await retry_forever(self._kit.containers)
        return any(c.run_id == claim.run_id and c.state is ContainerState.RUNNING for c in containers)

    # --- the end

    async def _decided(self, found: Outcome) -> Outcome | None:
        spool = self._kit.spool
        outcome = await self._kit.completion.decide(self._state, found, spool.folder(found.run_id))
        await asyncio.to_thread(spool.drop, found.run_id)
        return outcome

    async def _last_write(self, write: "Awaitable[Outcome | None]") -> Outcome | None:
        """Complete *write* even if cancelled meanwhile, within a few seconds."""
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
