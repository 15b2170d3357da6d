"""A short form of the coordination benchmark, with a tenth of the design's workers."""

from tests.benchmarks.coordination import measure, misses


async def test_a_thousand_workers_are_heard_and_given_their_segments_in_time() -> None:
    numbers = await measure(workers=1000, seconds=2.0)

    assert misses(numbers) == []
    assert numbers["core_share"] < 0.5
