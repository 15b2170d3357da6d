import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest

from libs.core.process.lifecycle import Lifecycle
from tests.support.eventually import eventually


class Journal:
    """Parts and steps that record their calls."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.running = asyncio.Event()

    def part(self, name: str) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            self.entries.append(f"{name} runs")
            self.running.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.entries.append(f"{name} ends")

        return run

    def step(self, name: str) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            self.entries.append(name)

        return run


async def for_ever() -> None:
    await asyncio.Event().wait()


async def stubborn(release: asyncio.Event) -> None:
    while not release.is_set():
        try:
            await release.wait()
        except asyncio.CancelledError:
            continue


@pytest.fixture
def lifecycle() -> Lifecycle:
    return Lifecycle(cancel_seconds=10, abandon=lambda code: None)


@pytest.fixture
def journal() -> Journal:
    return Journal()


async def test_steps_run_in_order_while_the_parts_run_then_the_parts_end_from_the_last(
    lifecycle: Lifecycle, journal: Journal
) -> None:
    lifecycle.part("http", journal.part("http"))
    lifecycle.part("lease", journal.part("lease"))
    lifecycle.on_close("close clients", journal.step("close clients"), 1)
    lifecycle.on_stop("stop containers", journal.step("stop containers"), 1)
    lifecycle.on_stop("release", journal.step("release"), 1)
    running = asyncio.create_task(lifecycle.run())
    await journal.running.wait()
    lifecycle.request_stop("test")

    assert await running == 0
    assert journal.entries == [
        "http runs",
        "lease runs",
        "stop containers",
        "release",
        "lease ends",
        "http ends",
        "close clients",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_process_in_good_order(
    lifecycle: Lifecycle, journal: Journal, number: signal.Signals
) -> None:
    lifecycle.part("worker", journal.part("worker"))
    lifecycle.on_stop("stop", journal.step("stop"), 1)
    running = asyncio.create_task(lifecycle.run())
    await journal.running.wait()
    os.kill(os.getpid(), number)

    assert await running == 0
    assert journal.entries == ["worker runs", "stop", "worker ends"]


async def test_a_part_that_raises_stops_the_process_with_an_error(lifecycle: Lifecycle, journal: Journal) -> None:
    async def fail() -> None:
        raise RuntimeError("broken")

    lifecycle.part("worker", fail)
    lifecycle.part("http", journal.part("http"))
    lifecycle.on_stop("stop", journal.step("stop"), 1)

    assert await lifecycle.run() == 1
    assert "stop" in journal.entries


async def test_a_part_that_ends_stops_the_process_with_an_error(lifecycle: Lifecycle) -> None:
    async def end() -> None:
        return

    lifecycle.part("worker", end)

    assert await lifecycle.run() == 1


async def test_a_cancellation_that_leaks_out_of_a_part_is_an_error(lifecycle: Lifecycle) -> None:
    async def leak() -> None:
        raise asyncio.CancelledError

    lifecycle.part("worker", leak)

    assert await lifecycle.run() == 1


async def test_a_part_declared_later_starts_at_once(lifecycle: Lifecycle, journal: Journal) -> None:
    async def start() -> None:
        lifecycle.part("worker", journal.part("worker"))
        await asyncio.Event().wait()

    lifecycle.part("start", start)
    running = asyncio.create_task(lifecycle.run())
    await journal.running.wait()
    lifecycle.request_stop("test")

    assert await running == 0
    assert journal.entries == ["worker runs", "worker ends"]


async def test_a_step_may_end_a_part_before_the_others(lifecycle: Lifecycle, journal: Journal) -> None:
    lifecycle.part("intake", journal.part("intake"))
    lifecycle.part("lease", journal.part("lease"))
    lifecycle.on_stop("stop intake", lambda: lifecycle.end_part("intake"), 1)
    lifecycle.on_stop("stop containers", journal.step("stop containers"), 1)
    running = asyncio.create_task(lifecycle.run())
    await journal.running.wait()
    lifecycle.request_stop("test")

    assert await running == 0
    assert journal.entries[2:] == ["intake ends", "stop containers", "lease ends"]


async def test_a_step_that_fails_or_hangs_is_an_error_and_the_next_ones_run(
    lifecycle: Lifecycle, journal: Journal
) -> None:
    async def fail() -> None:
        raise RuntimeError("broken")

    lifecycle.part("worker", for_ever)
    lifecycle.on_stop("fails", fail, 1)
    lifecycle.on_stop("hangs", for_ever, 0.05)
    lifecycle.on_stop("last", journal.step("last"), 1)
    lifecycle.request_stop("test")

    assert await lifecycle.run() == 1
    assert journal.entries == ["last"]


async def test_a_second_signal_cuts_the_limits(lifecycle: Lifecycle, journal: Journal) -> None:
    lifecycle.part("worker", journal.part("worker"))
    lifecycle.on_stop("hangs", for_ever, 600)
    running = asyncio.create_task(lifecycle.run())
    await journal.running.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await eventually(lambda: lifecycle.stopping, every_seconds=0.001)
    os.kill(os.getpid(), signal.SIGTERM)

    assert await asyncio.wait_for(running, 60) == 1
    assert lifecycle.hurried


async def test_stopping_twice_is_harmless(lifecycle: Lifecycle, journal: Journal) -> None:
    lifecycle.part("worker", for_ever)
    lifecycle.on_stop("stop", journal.step("stop"), 1)
    lifecycle.request_stop("first")
    lifecycle.request_stop("second", exit_code=3)

    assert await lifecycle.run() == 3
    assert journal.entries == ["stop"]


async def test_part_that_ignores_cancellation_is_abandoned_last(journal: Journal) -> None:
    release = asyncio.Event()

    def abandon(code: int) -> None:
        journal.entries.append(f"abandoned with {code}")
        release.set()

    lifecycle = Lifecycle(cancel_seconds=0.02, abandon=abandon)
    lifecycle.part("stubborn", lambda: stubborn(release))
    lifecycle.on_close("close", journal.step("close"), 1)
    running = asyncio.create_task(lifecycle.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    lifecycle.request_stop("test")

    assert await running == 1
    assert journal.entries == ["close", "abandoned with 1"]


async def test_cancelling_the_run_cancels_the_parts(lifecycle: Lifecycle, journal: Journal) -> None:
    lifecycle.part("worker", journal.part("worker"))
    running = asyncio.create_task(lifecycle.run())
    await journal.running.wait()
    running.cancel()
    await asyncio.wait([running])

    assert running.cancelled()
    assert journal.entries == ["worker runs", "worker ends"]


def test_two_parts_of_one_name_are_a_mistake(lifecycle: Lifecycle) -> None:
    lifecycle.part("worker", for_ever)

    with pytest.raises(ValueError, match="worker"):
        lifecycle.part("worker", for_ever)
