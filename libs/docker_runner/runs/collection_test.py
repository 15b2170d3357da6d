"""What becomes of the watch over a container while its output is collected."""

import asyncio
from typing import Any

import pytest

from libs.docker_runner.errors import DiskUnavailable
from libs.docker_runner.runs.collection import Collection
from tests.support.virtual_time import in_virtual_time


async def never() -> Any:
    raise AssertionError("nothing is taken")


def collection() -> tuple[Collection, "asyncio.Future[None]"]:
    following: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return Collection(following, never), following


async def end_after(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "ended"


@in_virtual_time
async def test_watch_goes_on_while_the_output_is_followed() -> None:
    made, _ = collection()
    assert await made.during(end_after(5.0)) == "ended"
    assert asyncio.get_running_loop().time() == 5.0


@in_virtual_time
async def test_watch_goes_on_after_the_end_of_the_output() -> None:
    made, following = collection()
    following.set_result(None)
    assert await made.during(end_after(5.0)) == "ended"


@in_virtual_time
async def test_output_that_cannot_be_kept_ends_the_watch_at_once() -> None:
    made, following = collection()
    watching = asyncio.ensure_future(end_after(50.0))
    following.set_exception(DiskUnavailable("the output of a run", OSError(28, "no space")))
    with pytest.raises(DiskUnavailable):
        await made.during(watching)
    assert watching.cancelled()
    assert asyncio.get_running_loop().time() == 0.0


@in_virtual_time
async def test_watch_ends_with_its_caller() -> None:
    made, _ = collection()
    watching = asyncio.ensure_future(end_after(50.0))
    calling = asyncio.create_task(made.during(watching))
    await asyncio.sleep(1.0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert watching.cancelled()
