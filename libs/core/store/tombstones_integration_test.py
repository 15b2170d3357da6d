"""The last deletion is what is remembered, whichever is written first, last, or at the same moment."""

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from libs.core.store.client import Database
from libs.core.store.history import Stamp
from libs.core.store.tombstones import TombstoneStore
from tests.support.faults.interruptions import OvertakenUpserts

EARLIER, LATER = Stamp.of(1000), Stamp.of(2000)
STREAM = 500


@pytest.mark.parametrize(("mine", "others"), [(EARLIER, LATER), (LATER, EARLIER)], ids=["earlier", "later"])
async def test_later_of_two_concurrent_deletions_stays(database: Database, mine: Stamp, others: Stamp) -> None:
    store = TombstoneStore(database)
    overtaken: Any = OvertakenUpserts(database, lambda: store.put({"x": others}))
    await TombstoneStore(overtaken).put({"x": mine})

    assert await store.of(["x"]) == {"x": LATER}


async def test_deletions_of_one_stream_are_ordered_by_it_though_its_clock_was_set_back(database: Database) -> None:
    store = TombstoneStore(database)
    first = Stamp.of(3000, stream=STREAM, sequence=4)
    second = Stamp.of(2500, stream=STREAM, sequence=5)
    by_hand = Stamp.of(1000)
    for number, order in enumerate(permutations([first, second, by_hand])):
        for stamp in order:
            await store.put({f"x{number}": stamp})

    stayed = await store.of(f"x{number}" for number in range(6))
    assert list(stayed.values()) == [second] * 6


async def test_tombstone_keeps_the_latest_time_before_the_deletion_whoever_writes_last(database: Database) -> None:
    store = TombstoneStore(database)
    for last_made_by in (700, 900, 800):
        await store.put({"x": replace(LATER, last_made_by=last_made_by)})
    await store.put({"x": replace(EARLIER, last_made_by=950)})

    assert await store.of(["x"]) == {"x": replace(LATER, last_made_by=900)}
