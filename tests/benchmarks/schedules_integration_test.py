"""A short form of the schedules benchmark: fewer of them, at the same moment."""

from tests.benchmarks.schedules import TARGET_P99_SECONDS, Lateness, measure
from tools.stack.mongod import MongoServer

# The tests share their processors with others; the benchmark itself holds to the target.
BOUND_SECONDS = 5 * TARGET_P99_SECONDS
ATTEMPTS = 5


async def test_schedules_that_are_due_together_all_start_on_time(mongod: MongoServer) -> None:
    lateness = await best_of_some(mongod.uri)

    assert lateness.firings == lateness.expected
    assert lateness.p99 <= BOUND_SECONDS


async def best_of_some(uri: str) -> Lateness:
    """What is late by itself is late each time; what others on the machine make late is not."""
    found = []
    for _ in range(ATTEMPTS):
        found.append(await measure(uri, schedules=200, seconds=4, together="*/3 * * * * *"))
        if found[-1].firings == found[-1].expected and found[-1].p99 <= BOUND_SECONDS:
            break
    return min(found, key=lambda lateness: lateness.p99)
