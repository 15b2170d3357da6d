"""A claim counts only for the document that was read."""

from datetime import UTC, datetime

from libs.core.store.entities import Entity
from libs.docker_runner.run_records import Recorder
from services.backtest_runner.claims import Claims
from services.backtest_runner.state import BacktestState
from tests.support.backtest_rig import BacktestRig, backtest_rig

__all__ = ["backtest_rig"]


async def test_a_backtest_that_was_created_again_is_not_claimed_by_who_read_the_one_before(rig: BacktestRig) -> None:
    await rig.announce()
    before = await state(rig)
    await rig.entities.delete("b")
    await rig.announce()
    claims = Claims(Recorder("w", "h"), epoch=1, entities=rig.entities)

    claimed = await claims.write(before, claims.next_of(None, "r", datetime.now(UTC)))

    assert claimed is None
    assert (await state(rig)).claim is None


async def test_a_broken_document_keeps_no_other_attempt_of_its_segment_from_being_released(rig: BacktestRig) -> None:
    claims = Claims(Recorder("w", "h"), epoch=1, entities=rig.entities)
    await rig.announce("a")
    await rig.announce("b")
    before = await state(rig)
    await claims.write(before, claims.next_of(None, "r", datetime.now(UTC)))
    await rig.set("a", backtest={"claim": {"run_id": "r"}})

    await claims.release_all(before.entity.segment_id)

    claim = (await state(rig)).claim
    assert claim is not None
    assert claim.released


async def state(rig: BacktestRig) -> BacktestState:
    entity = await rig.entities.get("b")
    assert isinstance(entity, Entity)
    return BacktestState.of(entity)
