"""An unexpected error costs one step and never the loop."""

import asyncio
import itertools

import pytest
from prometheus_client import REGISTRY

from libs.core.aio.wake import Wake
from libs.core.errors import Retryable
from libs.core.process.isolation import isolated, repeat, unexpected
from tests.support.eventually import eventually
from tests.support.virtual_time import in_virtual_time


def counted(where: str) -> float:
    return REGISTRY.get_sample_value("runtime_unexpected_errors_total", {"where": where}) or 0.0


class Steps:
    """A step that does these one after the other: raises an error, or returns a pause; then returns None."""

    def __init__(self, *plan: Exception | float) -> None:
        self._plan = list(plan)
        self.at: list[float] = []

    async def __call__(self) -> float | None:
        self.at.append(asyncio.get_running_loop().time())
        if not self._plan:
            return None
        planned = self._plan.pop(0)
        if isinstance(planned, Exception):
            raise planned
        return planned


async def times(steps: Steps, number: int, **options: object) -> list[float]:
    """When the first *number* calls of *steps* were."""
    repeating = asyncio.create_task(repeat("test", steps, 10.0, **options))  # type: ignore[arg-type]
    while len(steps.at) < number:
        assert not repeating.done()
        await asyncio.sleep(0.01)
    repeating.cancel()
    await asyncio.gather(repeating, return_exceptions=True)
    return steps.at[:number]


@pytest.mark.parametrize(
    "error", [OSError("no space"), RecursionError(), MemoryError(), ExceptionGroup("", [KeyError()])]
)
def test_an_isolated_block_that_fails_is_counted_and_left(error: Exception) -> None:
    before = counted("isolated")

    def fail() -> None:
        raise error

    with isolated("isolated"):
        fail()

    assert counted("isolated") == before + 1


def test_passing_error_leaves_isolated_block_uncounted() -> None:
    before = counted("passing")

    with pytest.raises(Retryable), isolated("passing"):
        raise Retryable("away")

    assert counted("passing") == before


async def test_cancellation_leaves_an_isolated_block() -> None:
    async def work() -> None:
        with isolated("cancelled"):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


def test_an_unexpected_error_is_counted_by_where_it_was_met() -> None:
    before = counted("here")

    unexpected("here", ValueError("x"), bot="b")

    assert counted("here") == before + 1


@in_virtual_time
async def test_rounds_follow_each_other_by_the_interval_or_by_what_they_return() -> None:
    called = await times(Steps(2.0, 3.0), 4)

    gaps = [later - earlier for earlier, later in itertools.pairwise(called)]
    assert gaps == pytest.approx([2.0, 3.0, 10.0], abs=0.001)


@in_virtual_time
async def test_a_loop_outlives_every_error_and_waits_longer_each_time() -> None:
    before = counted("test")

    called = await times(Steps(*(OSError() for _ in range(12))), 13)

    gaps = [later - earlier for earlier, later in itertools.pairwise(called)]
    assert gaps[0] <= 0.2
    assert 5.0 <= gaps[-1] <= 10.0
    assert counted("test") == before + 12


@in_virtual_time
async def test_a_round_that_works_ends_the_backoff() -> None:
    called = await times(Steps(*(Retryable("away") for _ in range(8)), 1.0, OSError()), 11)

    assert called[-1] - called[-2] <= 0.2


@in_virtual_time
async def test_failures_are_repeated_within_the_longest_retry() -> None:
    called = await times(Steps(*(OSError() for _ in range(12))), 13, longest_retry_seconds=0.5)

    assert max(later - earlier for earlier, later in itertools.pairwise(called)) <= 0.5


async def test_a_wake_ends_the_pause() -> None:
    steps, wake = Steps(), Wake()
    repeating = asyncio.create_task(repeat("test", steps, 3600.0, wake=wake))
    await eventually(lambda: len(steps.at) == 1)
    wake.set()

    await eventually(lambda: len(steps.at) == 2)

    repeating.cancel()
    await asyncio.gather(repeating, return_exceptions=True)


async def test_a_loop_that_is_cancelled_in_its_step_ends() -> None:
    async def step() -> None:
        await asyncio.Event().wait()

    repeating = asyncio.create_task(repeat("test", step, 0.001))
    await asyncio.sleep(0)
    repeating.cancel()

    with pytest.raises(asyncio.CancelledError):
        await repeating


async def test_rounds_are_measured_by_how_they_ended() -> None:
    steps = Steps(0.0, OSError("no space"), 0.0)
    before = [rounds(outcome) for outcome in ("ok", "error")]
    await times(steps, 4, operation="test rounds")

    assert [rounds(outcome) for outcome in ("ok", "error")] == [before[0] + 3, before[1] + 1]


def rounds(outcome: str) -> float:
    labels = {"system": "reconcile", "operation": "test rounds", "outcome": outcome}
    return REGISTRY.get_sample_value("runtime_operation_seconds_count", labels) or 0.0
