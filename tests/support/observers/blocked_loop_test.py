import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.observers.blocked_loop import LoopWatch

ROOT = Path(__file__).resolve().parents[3]
SOURCE = """
async def work(block):
    block()

def callback(block):
    block()
"""


@pytest.fixture
def watch() -> Iterator[LoopWatch]:
    watch = LoopWatch(cpu_seconds=0.1, slept_seconds=0.2)
    watch.install()
    yield watch
    watch.uninstall()


def code_in(file: str) -> dict[str, Any]:
    """Functions as they would be if they stood in that file of the repository."""
    names: dict[str, Any] = {}
    exec(compile(SOURCE, str(ROOT / file), "exec"), names)
    return names


def compute() -> None:
    until = time.thread_time() + 0.15
    while time.thread_time() < until:
        pass


def sleep() -> None:
    time.sleep(0.3)


async def carried_out(work: Coroutine[Any, Any, None]) -> None:
    await asyncio.create_task(work, name="ours")
    await asyncio.sleep(0)


@pytest.mark.parametrize(("block", "told"), [(compute, "busy"), (sleep, "wait")])
async def test_blocking_task_of_project_is_reported(watch: LoopWatch, block: Callable[[], None], told: str) -> None:
    await carried_out(code_in("libs/core/slow.py")["work"](block))

    [blocked] = watch.blocked
    assert "'ours'" in blocked
    assert told in blocked


async def test_blocking_callback_of_project_is_reported(watch: LoopWatch) -> None:
    asyncio.get_running_loop().call_soon(code_in("services/slow.py")["callback"], compute)
    await asyncio.sleep(0.01)

    assert "callback" in watch.blocked[0]


@pytest.mark.parametrize("file", ["libs/core/slow_test.py", "tests/support/slow.py"])
async def test_a_test_may_block(watch: LoopWatch, file: str) -> None:
    await carried_out(code_in(file)["work"](compute))

    assert watch.blocked == []


async def test_waiting_without_blocking_is_no_fault(watch: LoopWatch) -> None:
    await carried_out(code_in("libs/core/slow.py")["work"](lambda: None))
    await asyncio.sleep(0.3)

    assert watch.blocked == []
