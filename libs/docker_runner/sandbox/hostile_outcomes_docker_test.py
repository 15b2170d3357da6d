"""A thousand hostile texts where the init leaves its notes are a nuisance to no other bot.

No bot can write there; what is read is bounded all the same.
"""

import asyncio
import random
import time
from itertools import pairwise
from pathlib import Path

import pytest

from libs.core.room import MIB
from libs.docker_runner.containers.container import EndReason, ManagedContainer
from libs.docker_runner.containers.failure import FailureReason
from libs.docker_runner.containers.run_folders import HEAD_BOUNDS
from libs.docker_runner.executable import Limits
from libs.docker_runner.usage.sampler import UsageSampler
from tests.support.eventually import eventually
from tests.support.faults.hostile_texts import corpus
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tools.engine.ensure import Engine

pytestmark = pytest.mark.timeout(600)

BOTS = 10
READS = 1000
LARGEST_GAP_SECONDS = 0.3
REST_SECONDS = 5.0
TICKER = """
import time
def main(id, config):
    while True:
        print(time.monotonic(), flush=True)
        time.sleep(0.05)
"""
WAITING = """
import time
def main(id, config):
    while True:
        time.sleep(1)
"""


def texts(count: int) -> list[bytes]:
    """The known ones at the limit and around it; then such texts cut off, and with a byte in them changed."""
    chance = random.Random(1)
    known = [text for size in range(HEAD_BOUNDS.bytes - 1, HEAD_BOUNDS.bytes + 2) for text in corpus(size).values()]
    found = list(known)
    while len(found) < count:
        text = bytearray(chance.choice(known))
        if text and chance.random() < 0.5:
            text[chance.randrange(len(text))] = chance.randrange(256)
        else:
            del text[chance.randrange(len(text) + 1) :]
        found.append(bytes(text))
    return found


async def largest_gap_seconds(bots: BotContainers, tickers: list[ManagedContainer], begin: float, end: float) -> float:
    """The longest time between two ticks of one bot from *begin* to *end*, by the clock of the machine."""
    longest = 0.0
    for ticker in tickers:
        output = b"".join([piece.data async for piece in bots.runner.logs(ticker)])
        ticks = [float(line) for line in output.splitlines()]
        within = [begin, *(tick for tick in ticks if begin < tick < end), end]
        longest = max(longest, *(later - before for before, later in pairwise(within)))
    return longest


async def test_a_thousand_hostile_notes_are_read_while_the_other_bots_tick_on(
    tmp_path: Path, scope: str, docker_engine: Engine
) -> None:
    async with bot_containers(tmp_path, scope, docker_engine.url) as bots:
        sampler = UsageSampler(bots.runner, service="bot-runner", scope=scope, owns=lambda _: True)
        tickers = [await bots.runner.start(bots.executable(TICKER, f"ticker-{n}")) for n in range(BOTS)]
        await eventually(lambda: all_tick(bots, tickers))
        before = await gap_at_rest_seconds(bots, tickers)
        hostile = await bots.runner.start(bots.executable(WAITING, "hostile"))
        [outcome] = (bots.settings.temp_dir / "runs").glob(f"*/{hostile.name}/*/outcome")

        began = time.monotonic()
        for text in texts(READS):
            outcome.write_bytes(text)
            await sampler.sample_once()
        ended = await bots.runner.remove(hostile)
        gap = await largest_gap_seconds(bots, tickers, began, time.monotonic())

        assert ended.reason is EndReason.STOPPED
        known = {usage.container.id for usage in bots.runner.usage.latest}
        assert known >= {ticker.id for ticker in tickers}
        # On a machine that is busy with other things they have gaps without it too.
        assert gap <= max(LARGEST_GAP_SECONDS, 3 * before, 3 * await gap_at_rest_seconds(bots, tickers))


async def gap_at_rest_seconds(bots: BotContainers, tickers: list[ManagedContainer]) -> float:
    """The longest time between two ticks while nothing else is done."""
    began = time.monotonic()
    await asyncio.sleep(REST_SECONDS)
    return await largest_gap_seconds(bots, tickers, began, time.monotonic())


async def all_tick(bots: BotContainers, tickers: list[ManagedContainer]) -> bool:
    """Whether each has printed something."""
    printed = [[piece async for piece in bots.runner.logs(ticker)] for ticker in tickers]
    return all(printed)


async def test_result_of_seventeen_million_lists_is_reported_as_a_failure(
    tmp_path: Path, scope: str, docker_engine: Engine
) -> None:
    source = """
const fs = require("fs");
exports.main = () => {
  const text = Buffer.concat([Buffer.from('R{"a": ['), Buffer.alloc(67000000, "[], "), Buffer.from("[]]}")]);
  for (let written = 0; written < text.length; ) written += fs.writeSync(3, text, written);
  process.exit(0);
};
"""
    async with bot_containers(tmp_path, scope, docker_engine.url) as bots:
        outcome, _ = await bots.run(source, runtime="nodejs20", limits=Limits(result_bytes=64 * MIB))

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.RESULT_TOO_MANY_VALUES
    assert outcome.returned is None
    assert left_in(tmp_path / "runtime" / "outputs") == []


def left_in(folder: Path) -> list[str]:
    """The files below *folder*."""
    return [path.name for path in folder.rglob("*") if path.is_file()]
