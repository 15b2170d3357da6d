"""Claims of runs in the backtests' documents: written before a start, and only if no other claim exists."""

from dataclasses import replace
from datetime import UTC, datetime

from libs.core.process.isolation import isolated
from libs.core.room import Need
from libs.core.store.entities import EntityStore
from libs.docker_runner.containers.run_records import Recorder
from services.backtest_runner.state import CLAIM, CLAIMED_RUN, OUTCOME, STATUS, BacktestState, Claim


class Claims:
    """Writes for one owned segment."""

    def __init__(self, recorder: Recorder, *, epoch: int, entities: EntityStore) -> None:
        self._recorder = recorder
        self._epoch = epoch
        self._entities = entities

    def with_owner(self, claim: Claim) -> Claim:
        """Return *claim* with this worker as its owner."""
        who = self._recorder
        return replace(claim, worker=who.worker, host=who.host, epoch=self._epoch, released=False)

    def next_of(self, before: Claim | None, run_id: str, at: datetime) -> Claim:
        """Return the claim of the attempt after *before*."""
        used = before.counted if before is not None else 0
        return Claim(run_id, self._recorder.worker, self._recorder.host, self._epoch, used + 1, at)

    async def write(self, state: BacktestState, claim: Claim) -> BacktestState | None:
        """Write the claim, and return the claimed document. None when another claim was first, or it is gone.

        Raises:
            StoreUnavailable: outcome unknown; repeat it.
        """
        status = {"state": "running", "since": claim.at, "worker": claim.worker, "attempt": claim.attempt}
        changes = {CLAIM: claim.to_document(), STATUS: {**status, "run_id": claim.run_id}}
        while not await self._entities.compare_and_set(state.id, _as_read(state), changes):
            found = await self._entities.get(state.id)
            now = BacktestState.of(found) if found is not None else None
            if now is None or now.outcome is not None or now.made != state.made:
                return None
            # The answer of an earlier try may have been lost. No other worker has this epoch.
            if _holder(now.claim) == _holder(claim):
                return now
            if _holder(now.claim) != _holder(state.claim) or not now.may_begin:
                return None
            state = now  # changed by an event meanwhile
        return state

    async def waits(self, state: BacktestState, detail: str, need: Need | None) -> None:
        """Write what it waits for into the document, unless it was claimed meanwhile.

        *need* is the missing room; None when it waits for something else.
        """
        status: dict[str, object] = {"state": "waiting", "since": datetime.now(UTC), "detail": detail}
        status |= {"lacking": need.to_document()} if need is not None else {}
        await self._entities.compare_and_set(state.id, _as_read(state), {STATUS: status})

    async def release(self, backtest_id: str, claim: Claim, detail: str = "", need: Need | None = None) -> None:
        """End the attempt without a result, so that it does not count.

        *detail* describes what it waits for now, and *need* the missing room.
        """
        expected = {CLAIMED_RUN: claim.run_id, f"{CLAIM}.epoch": self._epoch, OUTCOME: None}
        status: dict[str, object] = {"state": "waiting", "since": claim.at} | ({"detail": detail} if detail else {})
        status |= {"lacking": need.to_document()} if need is not None else {}
        changes = {f"{CLAIM}.released": True, STATUS: status}
        await self._entities.compare_and_set(backtest_id, expected, changes)

    async def release_all(self, segment_id: int) -> None:
        """Release all attempts without an outcome, so that they do not count, before the worker stops."""
        for entity in await self._entities.in_segment(segment_id):
            with isolated("release backtest"):
                state = BacktestState.of(entity)
                if state.claim is not None and state.outcome is None and state.claim.epoch == self._epoch:
                    await self.release(state.id, state.claim)


def _as_read(state: BacktestState) -> dict[str, object]:
    """Return the condition that the document is unchanged and not claimed by another worker."""
    expected: dict[str, object] = {**state.entity.as_read, OUTCOME: None}
    if state.claim is None:
        return {**expected, CLAIM: None}
    # One that was taken over meanwhile has a higher epoch, also under the same run.
    return {**expected, CLAIMED_RUN: state.claim.run_id, f"{CLAIM}.epoch": state.claim.epoch}


def _holder(claim: Claim | None) -> tuple[str, int] | None:
    return (claim.run_id, claim.epoch) if claim is not None else None
