"""A later order with a shorter grace ends a container sooner, and a container is removed after its end is recorded."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from libs.core.aio.wake import Wake
from libs.docker_runner.containers.container import Ended, EndReason, ManagedContainer
from libs.docker_runner.errors import EngineUnavailable
from libs.docker_runner.executable import CodeRef, Entrypoint, Executable, Placement
from libs.docker_runner.runs.stop_orders import StopOrder, retire, stop_by_order
from tests.support.fakes.fake_host import FakeHost, container_of
from tests.support.virtual_time import in_virtual_time

STOP, KILL = StopOrder("stopped", 30.0), StopOrder("killed", 0.0)
AWAY = EngineUnavailable("stop", "no answer")


def container() -> ManagedContainer:
    placement = Placement("image")
    code = CodeRef("bots", "key")
    return container_of(
        Executable("b", "s", "x", "python3.11", Entrypoint.BOT, "main.py", code, placement=placement, run_id="r")
    )


class Stopping:
    """A stop that lasts as long as its grace; *orders* are those that it was called with."""

    def __init__(self, faults: dict[str, Exception] | None = None) -> None:
        self.latest: StopOrder | None = STOP
        self.wake = Wake()
        self.orders: list[str] = []
        self.cancelled: list[str] = []
        self._faults = faults or {}

    async def stop(self, order: StopOrder) -> Ended:
        self.orders.append(order.reason)
        try:
            await asyncio.sleep(order.grace_seconds)
        except asyncio.CancelledError:
            self.cancelled.append(order.reason)
            raise
        if (fault := self._faults.get(order.reason)) is not None:
            raise fault
        return Ended(container(), 143, False, EndReason.STOPPED, None, None)

    async def carried_out(self) -> tuple[str, int | None]:
        order, ended = await stop_by_order(self.stop, STOP, latest=lambda: self.latest, wake=self.wake)
        return order.reason, ended.exit_code

    def change_at(self, at: float, latest: StopOrder | None) -> None:
        def change() -> None:
            self.latest = latest
            self.wake.set()

        asyncio.get_running_loop().call_later(at, change)


def seconds() -> float:
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_stop_without_a_later_order_lasts_until_the_container_is_dead() -> None:
    stopping = Stopping()
    assert await stopping.carried_out() == ("stopped", 143)
    assert (stopping.orders, seconds()) == (["stopped"], 30.0)


@in_virtual_time
async def test_later_order_with_a_shorter_grace_ends_the_container_and_cancels_the_first_stop() -> None:
    stopping = Stopping()
    stopping.change_at(2.0, KILL)
    assert await stopping.carried_out() == ("killed", 143)
    assert (stopping.orders, stopping.cancelled, seconds()) == (["stopped", "killed"], ["stopped"], 2.0)


@pytest.mark.parametrize("grace_seconds", [30.0, 60.0])
@in_virtual_time
async def test_later_order_without_a_shorter_grace_changes_nothing(grace_seconds: float) -> None:
    stopping = Stopping()
    stopping.change_at(2.0, StopOrder("changed", grace_seconds))
    assert await stopping.carried_out() == ("stopped", 143)
    assert (stopping.orders, seconds()) == (["stopped"], 30.0)


@in_virtual_time
async def test_order_that_is_withdrawn_while_the_container_ends_changes_nothing() -> None:
    stopping = Stopping()
    stopping.change_at(2.0, None)
    assert await stopping.carried_out() == ("stopped", 143)
    assert (stopping.orders, seconds()) == (["stopped"], 30.0)


@in_virtual_time
async def test_error_of_the_first_stop_is_raised() -> None:
    with pytest.raises(EngineUnavailable):
        await Stopping({"stopped": AWAY}).carried_out()


@in_virtual_time
async def test_error_of_the_sooner_stop_is_raised_and_the_first_one_is_cancelled() -> None:
    stopping = Stopping({"killed": AWAY})
    stopping.change_at(2.0, KILL)
    with pytest.raises(EngineUnavailable):
        await stopping.carried_out()
    assert (stopping.cancelled, seconds()) == (["stopped"], 2.0)


@in_virtual_time
async def test_cancelled_stop_leaves_no_task() -> None:
    stopping = Stopping()
    going = asyncio.create_task(stopping.carried_out())
    await asyncio.sleep(1.0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert stopping.cancelled == ["stopped"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- records before removals


def host_with(found: ManagedContainer) -> FakeHost:
    return FakeHost(containers={found.container_id: found})


def recorded(host: FakeHost, seen: list[tuple[EndReason, int]]) -> Callable[[Ended], Awaitable[None]]:
    async def record(ended: Ended) -> None:
        seen.append((ended.reason, len(host.containers)))

    return record


@in_virtual_time
async def test_retired_container_is_ended_with_its_grace_then_recorded_then_removed() -> None:
    found, seen = container(), list[tuple[EndReason, int]]()
    host = host_with(found)
    await retire(host, found, 9.0, recorded(host, seen))
    assert (host.graces, seen, host.containers) == ({"b": [9.0]}, [(EndReason.STOPPED, 1)], {})


@in_virtual_time
async def test_container_whose_end_is_not_recorded_stays() -> None:
    found = container()
    host = host_with(found)

    async def refuse(ended: Ended) -> None:
        raise AWAY

    with pytest.raises(EngineUnavailable):
        await retire(host, found, 9.0, refuse)
    assert list(host.containers) == [found.container_id]
