import asyncio
import contextlib

import pytest
from prometheus_client import REGISTRY

from libs.collector.collector import Collector
from libs.collector.sweep import Found, Sweep
from libs.core.storage.errors import BucketMissing, StorageRejected, StorageUnavailable
from tests.support.virtual_time import in_virtual_time

_LAST = "runtime_collection_last_success_timestamp_seconds"


class Kind:
    """A kind of garbage of which there is always one more, and whose collection may fail."""

    def __init__(self, kind: str, error: Exception | None = None) -> None:
        self.kind = kind
        self.rounds: list[float] = []
        self._error = error

    async def collect(self, sweep: Sweep) -> None:
        self.rounds.append(asyncio.get_running_loop().time())
        sweep.note(1, 10)
        if self._error is not None:
            raise self._error


def shown(metric: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(metric, labels) or 0.0


def failures(kind: str) -> float:
    return shown("runtime_collection_failures_total", kind=kind)


@pytest.mark.parametrize(
    "error",
    [
        StorageUnavailable("list", "no answer"),
        StorageRejected("remove", "AccessDenied", "the key"),
        ZeroDivisionError("a defect"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_kind_that_fails_is_counted_and_keeps_no_other_from_being_collected(error: Exception) -> None:
    before = failures("t-broken")
    kinds = [Kind("t-broken", error), Kind("t-sound")]

    found = await Collector(kinds, 60.0).collect()

    assert found == [Found("t-sound", 1, 10)]
    assert failures("t-broken") == before + 1
    assert shown(_LAST, kind="t-broken") == 0
    assert shown(_LAST, kind="t-sound") > 0


async def test_a_bucket_that_is_not_there_yet_is_no_failure() -> None:
    found = await Collector([Kind("t-none", BucketMissing("bots", ""))], 60.0).collect()

    assert len(found) == 1
    assert failures("t-none") == 0


async def test_dry_run_is_counted_separately() -> None:
    await Collector([Kind("t-dry")], 60.0, dry_run=True).collect()

    assert shown("runtime_collected_total", kind="t-dry", dry_run="true") == 1
    assert shown("runtime_collected_bytes_total", kind="t-dry", dry_run="true") == 10
    assert shown("runtime_collected_total", kind="t-dry", dry_run="false") == 0


async def rounds(kind: Kind, interval_seconds: float, number: int) -> list[float]:
    """When the first *number* rounds are, by the loop's clock."""
    collecting = asyncio.create_task(Collector([kind], interval_seconds).collect_for_ever())
    while len(kind.rounds) < number:
        assert not collecting.done()
        await asyncio.sleep(1.0)
    collecting.cancel()
    await asyncio.gather(collecting, return_exceptions=True)
    return kind.rounds


@in_virtual_time
async def test_a_new_leader_begins_soon_and_goes_on_in_its_interval() -> None:
    assert await rounds(Kind("t-sound"), 3600.0, 3) == pytest.approx([60, 3660, 7260], abs=1)


@in_virtual_time
async def test_failed_round_is_repeated_sooner() -> None:
    assert await rounds(Kind("t-broken", ZeroDivisionError()), 3600.0, 3) == pytest.approx([60, 360, 660], abs=1)


@in_virtual_time
async def test_a_short_interval_is_also_the_time_to_the_first_round() -> None:
    assert await rounds(Kind("t-sound"), 5.0, 3) == pytest.approx([5, 10, 15], abs=1)


@in_virtual_time
async def test_each_time_that_a_master_leads_it_waits_before_its_first_round() -> None:
    kind = Kind("t-sound")
    collector = Collector([kind], 3600.0)
    for _ in range(2):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(collector.collect_for_ever(), 59.0)

    assert kind.rounds == []
