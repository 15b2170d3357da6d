"""A claim counts only for the document that was read."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from libs.core.room import Need
from libs.core.store.entities import Entity
from libs.docker_runner.containers.run_records import Recorder
from services.backtest_runner.claims import Claims
from services.backtest_runner.state import BacktestState
from tests.support.rigs.backtest_rig import CUSTOM, BacktestRig, backtest_rig

__all__ = ["backtest_rig"]

NOW = datetime(2026, 1, 2, tzinfo=UTC)


async def test_recreated_backtest_is_not_claimed_by_a_reader_of_the_deleted_one(rig: BacktestRig) -> None:
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


async def test_claim_whose_answer_was_lost_is_the_workers_own_at_the_second_try(rig: BacktestRig) -> None:
    await rig.announce()
    before = await state(rig)
    claims = claims_of(rig, epoch=1)
    claim = claims.next_of(None, "r", NOW)
    await claims.write(before, claim)

    again = await claims.write(before, claim)

    assert again is not None
    assert again.claim == claim


async def test_event_between_reading_and_claiming_is_followed(rig: BacktestRig) -> None:
    await rig.announce()
    before = await state(rig)
    await rig.entities.update("b", {"n": 2}, CUSTOM)
    claims = claims_of(rig, epoch=1)
    claim = claims.next_of(None, "r", NOW)

    claimed = await claims.write(before, claim)

    assert claimed is not None
    assert claimed.entity.config == {"n": 2}
    assert (await state(rig)).claim == claim


async def test_event_between_reading_and_taking_over_is_followed(rig: BacktestRig) -> None:
    await rig.announce()
    before = await claimed_by(rig, epoch=1)
    await rig.entities.update("b", {"n": 2}, CUSTOM)
    assert before.claim is not None

    claimed = await claims_of(rig, epoch=2).write(before, claims_of(rig, epoch=2).with_owner(before.claim))

    assert claimed is not None
    assert await epoch_of_claim(rig) == 2


async def test_event_that_disables_it_between_reading_and_claiming_leaves_it_unclaimed(rig: BacktestRig) -> None:
    await rig.announce()
    before = await state(rig)
    await rig.entities.update("b", {"enabled": False}, CUSTOM)
    claims = claims_of(rig, epoch=1)

    claimed = await claims.write(before, claims.next_of(None, "r", NOW))

    assert claimed is None
    assert (await state(rig)).claim is None


@pytest.mark.parametrize("run_id", ["r", "r2"], ids=["same run", "next attempt"])
async def test_claim_that_a_newer_owner_has_taken_is_not_taken_back(rig: BacktestRig, run_id: str) -> None:
    await rig.announce()
    before = await claimed_by(rig, epoch=1)
    assert before.claim is not None
    newer = claims_of(rig, epoch=3)
    await newer.write(before, replace(newer.with_owner(before.claim), run_id=run_id))
    stale = claims_of(rig, epoch=2)

    claimed = await stale.write(before, stale.next_of(before.claim, "late", NOW))

    assert claimed is None
    found = (await state(rig)).claim
    assert found is not None
    assert (found.run_id, found.epoch) == (run_id, 3)


async def test_first_claim_loses_to_one_that_was_made_since_it_was_read(rig: BacktestRig) -> None:
    await rig.announce()
    before = await state(rig)
    await claimed_by(rig, epoch=2)
    stale = claims_of(rig, epoch=1)

    assert await stale.write(before, stale.next_of(None, "late", NOW)) is None
    assert await epoch_of_claim(rig) == 2


async def test_backtest_that_has_its_outcome_is_claimed_no_more(rig: BacktestRig) -> None:
    await rig.announce()
    before = await claimed_by(rig, epoch=1)
    assert before.claim is not None
    await rig.set("b", backtest__outcome={"run_id": "r", "success": True})
    claims = claims_of(rig, epoch=2)

    assert await claims.write(before, claims.with_owner(before.claim)) is None
    assert await epoch_of_claim(rig) == 1


async def test_backtest_that_is_gone_is_not_claimed(rig: BacktestRig) -> None:
    await rig.announce()
    before = await state(rig)
    await rig.entities.delete("b")
    claims = claims_of(rig, epoch=1)

    assert await claims.write(before, claims.next_of(None, "r", NOW)) is None
    assert await rig.over()


async def test_attempt_that_is_taken_over_counts_again_until_it_is_released(rig: BacktestRig) -> None:
    await rig.announce()
    before = await claimed_by(rig, epoch=1)
    await claims_of(rig, epoch=1).release_all(before.entity.segment_id)
    released = (await state(rig)).claim
    assert released is not None
    assert (released.released, released.counted) == (True, 0)

    taken = Claims(Recorder("w2", "h2"), epoch=2, entities=rig.entities).with_owner(released)

    assert (taken.worker, taken.host, taken.epoch, taken.released) == ("w2", "h2", 2, False)
    assert (taken.run_id, taken.attempt, taken.counted) == ("r", 1, 1)


async def test_claim_shows_in_the_status_with_worker_run_and_attempt(rig: BacktestRig) -> None:
    await rig.announce()
    await claimed_by(rig, epoch=1)

    status = (await state(rig)).entity.document["status"]

    assert status == {"state": "running", "since": NOW, "worker": "w", "attempt": 1, "run_id": "r"}


async def test_releasing_all_leaves_attempts_of_other_owners_and_those_with_an_outcome(rig: BacktestRig) -> None:
    await rig.announce()
    before = await claimed_by(rig, epoch=1)
    segment = before.entity.segment_id

    await claims_of(rig, epoch=2).release_all(segment)
    assert not await is_released(rig)

    await rig.set("b", backtest__outcome={"run_id": "r", "success": True})
    await claims_of(rig, epoch=1).release_all(segment)
    assert not await is_released(rig)


@pytest.mark.parametrize("other", [{"run_id": "r2"}, {"epoch": 2}], ids=["another run", "a newer owner"])
async def test_release_leaves_a_claim_that_is_not_the_same_any_more(rig: BacktestRig, other: dict[str, object]) -> None:
    await rig.announce()
    before = await claimed_by(rig, epoch=1)
    assert before.claim is not None
    await rig.set("b", **{f"backtest__claim__{name}": value for name, value in other.items()})

    await claims_of(rig, epoch=1).release("b", before.claim)

    assert not await is_released(rig)


async def test_release_records_what_backtest_waits_for(rig: BacktestRig) -> None:
    await rig.announce()
    before = await claimed_by(rig, epoch=1)
    assert before.claim is not None
    need = Need(7, 0.5)

    await claims_of(rig, epoch=1).release("b", before.claim, "no room", need)

    assert await is_released(rig)
    status = (await state(rig)).entity.document["status"]
    assert status == {"state": "waiting", "since": NOW, "detail": "no room", "lacking": need.to_document()}


async def test_what_it_waits_for_is_not_written_over_a_claim(rig: BacktestRig) -> None:
    await rig.announce()
    before = await state(rig)
    claims = claims_of(rig, epoch=1)
    await claims.waits(before, "no room", Need())
    assert (await state(rig)).entity.document["status"]["detail"] == "no room"
    await claimed_by(rig, epoch=2)

    await claims.waits(before, "no room", Need())

    assert (await state(rig)).entity.document["status"]["state"] == "running"


def claims_of(rig: BacktestRig, *, epoch: int) -> Claims:
    return Claims(Recorder("w", "h"), epoch=epoch, entities=rig.entities)


async def claimed_by(rig: BacktestRig, *, epoch: int) -> BacktestState:
    """The document after the owner with *epoch* has claimed the first attempt."""
    claims = claims_of(rig, epoch=epoch)
    assert await claims.write(await state(rig), claims.next_of(None, "r", NOW)) is not None
    return await state(rig)


async def epoch_of_claim(rig: BacktestRig) -> int:
    claim = (await state(rig)).claim
    assert claim is not None
    return claim.epoch


async def is_released(rig: BacktestRig) -> bool:
    claim = (await state(rig)).claim
    assert claim is not None
    return claim.released


async def state(rig: BacktestRig) -> BacktestState:
    entity = await rig.entities.get("b")
    assert isinstance(entity, Entity)
    return BacktestState.of(entity)
