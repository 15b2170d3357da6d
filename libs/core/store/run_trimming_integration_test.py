from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from libs.core.run_record import RunRecord
from libs.core.store.client import Database
from libs.core.store.run_trimming import RunTrimming
from libs.core.store.runs import RunStore
from tests.support.faults.deaths import Mortal
from tests.support.rigs.garbage_rig import Interruption

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def record(
    database: Database, entity_id: str, number: int, *, ended: bool = True, second: int | None = None
) -> None:
    begun = NOON + timedelta(seconds=number if second is None else second)
    run = RunRecord(
        run_id=f"{entity_id}{number}",
        entity_id=entity_id,
        segment_id=1,
        worker_id="w",
        host="h",
        epoch=1,
        started_at=begun,
        ended_at=begun if ended else None,
        reason="finished" if ended else None,
    )
    await (RunStore(database).finish(run) if ended else RunStore(database).start(run))


async def left(database: Database) -> list[str]:
    return sorted([found["_id"] async for found in database["runs"].find()])


async def trim(trimming: RunTrimming, entity_id: str, most: int) -> int:
    return sum([removed async for removed in trimming.trim(entity_id, most)])


async def test_the_runs_that_started_last_stay(database: Database) -> None:
    for number in range(9):
        await record(database, "b", number)
    await record(database, "other", 0)
    trimming = RunTrimming(database, page=2)

    expected = await trimming.beyond("b", 3)
    removed = await trim(trimming, "b", 3)

    assert expected == removed == 6
    assert await left(database) == ["b6", "b7", "b8", "other0"]
    assert await trim(trimming, "b", 3) == 0


async def test_runs_that_go_on_stay_however_old_they_are(database: Database) -> None:
    await record(database, "b", 0, ended=False)
    for number in range(1, 5):
        await record(database, "b", number)

    removed = await trim(RunTrimming(database), "b", 2)

    assert removed == 2
    assert await left(database) == ["b0", "b3", "b4"]


async def test_trimming_keeps_exact_number_of_simultaneous_runs(database: Database) -> None:
    for number in range(6):
        await record(database, "b", number, second=0)

    await trim(RunTrimming(database), "b", 2)

    assert await left(database) == ["b0", "b1"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 100])
async def test_every_entity_with_too_many_is_found(database: Database, chunk: int) -> None:
    for entity_id, count in (("a", 1), ("b", 4), ("c", 2), ("d", 5), ("é", 3)):
        for number in range(count):
            await record(database, entity_id, number)
    trimming = RunTrimming(database, chunk=chunk)

    found = {entity_id: await trimming.beyond(entity_id, 2) async for entity_id in trimming.entities(2)}

    assert {entity_id: beyond for entity_id, beyond in found.items() if beyond} == {"b": 2, "d": 3, "é": 1}


async def test_a_run_that_is_adopted_while_records_are_removed_stays(database: Database) -> None:
    for number in range(3):
        await record(database, "b", number)
    await database["runs"].update_one({"_id": "b0"}, {"$set": {"presumed": True}})
    adopting = Interruption(1, lambda: RunStore(database).adopt("b0", worker_id="w", epoch=2))
    interrupted: Any = {"runs": Mortal(database["runs"], cast(Any, adopting), "delete_many")}

    removed = await trim(RunTrimming(interrupted), "b", 1)

    assert adopting.happened
    assert removed == 1
    assert await left(database) == ["b0", "b2"]
