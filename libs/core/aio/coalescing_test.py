import asyncio
import itertools
from collections.abc import Iterator

import pytest

from libs.core.aio import coalescing
from libs.core.aio.coalescing import coalesce_wakeups, coalesced
from tests.support.virtual_time import in_virtual_time


@pytest.fixture
def coalescing_process() -> Iterator[None]:
    coalesce_wakeups()
    yield
    coalescing._phases.clear()


async def ends(pause: float, *, first: float, number: int) -> list[float]:
    """When the pauses of a loop end that begins after *first* seconds."""
    await asyncio.sleep(first)
    found = []
    for _ in range(number):
        await asyncio.sleep(coalesced(pause))
        found.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.003)  # what the loop does
    return found


@pytest.mark.usefixtures("coalescing_process")
@in_virtual_time
async def test_loops_that_began_apart_wake_together() -> None:
    loops = (ends(pause, first=first, number=20) for pause, first in ((2.0, 0.1), (3.0, 0.73), (5.0, 1.42)))

    moments = itertools.chain.from_iterable(await asyncio.gather(*loops))

    first, *others = moments
    assert [(moment - first + 0.5) % 1 for moment in others] == pytest.approx([0.5] * 59, abs=1e-3)


@pytest.mark.usefixtures("coalescing_process")
@in_virtual_time
async def test_period_of_a_loop_is_its_pause() -> None:
    moments = await ends(2.0, first=0.1, number=9)

    assert [later - sooner for sooner, later in itertools.pairwise(moments)] == pytest.approx([2.0] * 8)


@pytest.mark.usefixtures("coalescing_process")
@pytest.mark.parametrize("seconds", [1.0, 1.2, 2.0, 5.0, 61.7])
@in_virtual_time
async def test_pause_keeps_at_least_half_its_length_and_is_never_longer(seconds: float) -> None:
    for _ in range(50):
        await asyncio.sleep(0.037)

        assert max(seconds / 2, seconds - 1) - 1e-5 < coalesced(seconds) <= seconds + 1e-5


@pytest.mark.usefixtures("coalescing_process")
@in_virtual_time
async def test_short_pause_keeps_its_length() -> None:
    assert coalesced(0.9) == 0.9


@in_virtual_time
async def test_pause_of_a_process_that_does_not_coalesce_keeps_its_length() -> None:
    assert coalesced(2.3) == 2.3
