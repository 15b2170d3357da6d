"""Leases when the driver does not return: outcomes that are unknown, within a limit."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from libs.core.leases.lease import Holder, Leadership, Lease
from libs.core.store.client import StoreUnavailable
from libs.core.store.leases import LeadershipStore, LeaseStore
from tests.support.virtual_time import in_virtual_time

HOLDER = Holder("a", "a-1", "host")
LEASE = Lease(1, HOLDER, 1, 5.0)
LEADERSHIP = Leadership(HOLDER, 1, 5.0)


class HungDriver:
    """A database whose every answer fails to come; a search gives one document first."""

    def get_collection(self, name: str, **options: Any) -> Any:
        return self

    async def find_one_and_update(self, *arguments: Any, **options: Any) -> None:
        await asyncio.Event().wait()

    update_one = find_one = find_one_and_update

    async def find(self, *arguments: Any, **options: Any) -> AsyncIterator[dict[str, object]]:
        yield {"_id": 1, "bot_count": 1}
        await asyncio.Event().wait()


LEASES = LeaseStore(HungDriver(), 5.0, timeout_seconds=1.0)  # type: ignore[arg-type]
MASTERS = LeadershipStore(HungDriver(), 5.0, timeout_seconds=1.0)  # type: ignore[arg-type]
REQUESTS: dict[str, Callable[[], Awaitable[object]]] = {
    "acquire": lambda: LEASES.acquire(1, HOLDER),
    "renew": lambda: LEASES.renew(LEASE),
    "release": lambda: LEASES.release(LEASE),
    "taken": lambda: LEASES.taken(LEASE),
    "survey": lambda: LEASES.survey(timeout_seconds=1.0),
    "live": lambda: LEASES.live(timeout_seconds=1.0),
    "reachable": lambda: LEASES.reachable(),
    "lead": lambda: MASTERS.acquire(HOLDER),
    "lead on": lambda: MASTERS.renew(LEADERSHIP),
    "lead no longer": lambda: MASTERS.release(LEADERSHIP),
    "leader": lambda: MASTERS.leader(),
}


@pytest.mark.parametrize("request_name", REQUESTS)
@in_virtual_time
async def test_request_that_the_driver_never_answers_ends_as_unknown(request_name: str) -> None:
    begun = asyncio.get_running_loop().time()

    with pytest.raises(StoreUnavailable):
        await REQUESTS[request_name]()

    assert 1.0 <= asyncio.get_running_loop().time() - begun < 1.5


@in_virtual_time
async def test_survey_has_ten_seconds_unless_a_request_has_more() -> None:
    for timeout_seconds, expected in ((1.0, 10.25), (20.0, 20.25)):
        begun = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailable):
            await LeaseStore(HungDriver(), 5.0, timeout_seconds=timeout_seconds).survey()  # type: ignore[arg-type]
        assert asyncio.get_running_loop().time() - begun == pytest.approx(expected)
