"""A short form of the coordination benchmark, with few of the design's workers."""

import pytest

from tests.benchmarks.coordination import ASSIGN_TARGET_SECONDS, measure

pytestmark = pytest.mark.timeout(300)


async def test_hundreds_of_workers_are_heard_and_given_their_segments_with_little_work() -> None:
    numbers = await measure(workers=300, seconds=2.0)

    # Processor time, since on a loaded machine wall time does not measure the master.
    assert numbers["assigned"] == 300
    assert numbers["core_share"] < 0.5
    assert numbers["assigned_cpu_seconds"] < ASSIGN_TARGET_SECONDS
