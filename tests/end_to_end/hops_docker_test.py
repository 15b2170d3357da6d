"""How many modules lie between an event and the start of its bot, and between the end of a bot and its restart.

*Crossed* modules hand the work on: they are on the call stack when it passes a queue, a wake-up, a task or a request.
*Entered* modules also include each parser, store and metric that is called on the way: an event is parsed, written into
MongoDB and read again, its code is fetched, its run recorded, its room reserved. That takes a module each.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.observers import module_trace
from tests.support.observers.module_trace import MARKS, Way, common, from_deliveries, from_ends, read_calls
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

# One bot before them, whose segment has to be acquired first, does not count.
EVENTS = 4
ENDS = 2
BOT = "import time\n\ndef main(id, config):\n    print('up', flush=True)\n    time.sleep(config['seconds'])\n"


@dataclass(frozen=True)
class Ways:
    """The common part of all events, and of all ends of a bot."""

    event: Way
    end: Way


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ways(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[Ways]:
    folder = tmp_path_factory.mktemp("hops")
    settings = {**PATIENT, "MAX_BOTS_PER_PARTITION": "100"}
    async with deployment(folder, docker_engine, settings=settings) as made:
        calls = folder / "calls"
        made.start_process("master", "master")
        made.start_process("worker", "w1", under=(module_trace.__name__, calls))
        for process in made.processes.values():
            await process.wait_ready()
        for number in range(EVENTS + 1):
            # Each has its own code, so that each start fetches it.
            await _announce(made, f"b{number}", seconds=3600)
            await eventually(lambda: made.running_with(f"b{number}", "up"))  # noqa: B023 - awaited at once
        await _announce(made, "short", seconds=0.5)
        await eventually(lambda: _restarted(made, "short"))
        await made.processes["w1"].process.stop(grace_seconds=60)
        found = read_calls(calls)
        assert {call.function for call in found} >= MARKS, "a function was renamed: its hop would not be counted"
        yield Ways(common(list(from_deliveries(found))[1:]), common(list(from_ends(found))))


async def _announce(made: Deployment, bot_id: str, seconds: float) -> None:
    made.platform.upload(bot_id, zipped({"main.py": BOT, "id": bot_id}))
    await made.platform.create_bot(bot_id, {"seconds": seconds}, key=bot_id)


async def _restarted(made: Deployment, bot_id: str) -> bool:
    document = await made.document(bot_id)
    return document is not None and document.get("status", {}).get("restarts", 0) > ENDS


async def test_event_crosses_at_most_25_modules_until_the_start_request(ways: Ways) -> None:
    assert len(ways.event.crossed) <= 25, "\n".join(sorted(ways.event.crossed))


async def test_end_of_a_bot_crosses_at_most_14_modules_until_the_start_request(ways: Ways) -> None:
    assert len(ways.end.crossed) <= 14, "\n".join(sorted(ways.end.crossed))


async def test_event_enters_at_most_95_modules_until_the_start_request(ways: Ways) -> None:
    assert len(ways.event.entered) <= 95, "\n".join(sorted(ways.event.entered))


async def test_end_of_a_bot_enters_at_most_106_modules_until_the_start_request(ways: Ways) -> None:
    assert len(ways.end.entered) <= 106, "\n".join(sorted(ways.end.entered))
