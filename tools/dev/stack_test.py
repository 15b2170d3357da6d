"""How many workers a stack has, by what it remembers."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tools.dev import state as states
from tools.dev.stack import Stack
from tools.dev.state import Part, StackState
from tools.stack.process_identity import ProcessIdentity

SLEEPS = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(0)); print(flush=True); time.sleep(600)"
OTHERS = ["mongod", "bot-runner-master", "backtest-runner-worker-1", "bot-scheduler-worker-1"]


@pytest.fixture
def parts() -> Iterator[dict[str, Part]]:
    """A stack with four workers of bot-runner, of which the last one has died."""
    with ExitStack() as stack:
        found = {}
        for name in [*OTHERS, *(f"bot-runner-worker-{number}" for number in range(1, 5))]:
            child = stack.enter_context(subprocess.Popen([sys.executable, "-c", SLEEPS], stdout=subprocess.PIPE))
            stack.callback(child.kill)
            assert child.stdout is not None
            child.stdout.readline()
            found[name] = Part(name, ProcessIdentity.of(child.pid), 1, "log")
            if name.endswith("-4"):
                child.kill()
                child.wait()
        yield found


def alive(parts: dict[str, Part]) -> set[str]:
    return {name for name, part in parts.items() if part.process.alive}


async def test_workers_beyond_the_number_are_stopped_and_forgotten(tmp_path: Path, parts: dict[str, Part]) -> None:
    states.save(tmp_path, StackState(parts=tuple(parts.values())))
    stack = Stack(tmp_path, tethered=False, workers=2)

    stopped = await stack.stop_surplus()

    wanted = {*OTHERS, "bot-runner-worker-1", "bot-runner-worker-2"}
    assert stopped == ["bot-runner-worker-3"]
    assert alive(parts) == wanted
    assert {part.name for part in states.load(tmp_path).parts} == wanted


async def test_as_many_workers_as_run_stay_where_no_number_is_given(tmp_path: Path, parts: dict[str, Part]) -> None:
    states.save(tmp_path, StackState(parts=tuple(parts.values())))

    assert await Stack(tmp_path, tethered=False).stop_surplus() == []

    assert "bot-runner-worker-3" in alive(parts)
    assert "bot-runner-worker-4" not in {part.name for part in states.load(tmp_path).parts}
