"""Eight backtests end at once with 64 MiB each, which a JSON parser turns into gigabytes: their worker works on."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from libs.core.process.service import BACKTEST_RUNNER
from libs.core.room import MIB
from libs.docker_runner.containers.returned import MOST_DEPTH, MOST_VALUES
from tests.support.rigs.backtests import Backtests, listening
from tests.support.rigs.deployment import deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

pytestmark = pytest.mark.timeout(900)

TOGETHER = 8
SETTINGS = {
    "MAX_BACKTESTS_PER_PARTITION": "100",
    "BATCH_SIZE": str(TOGETHER),
    "BATCH_INTERVAL": "1",
    "BOT_RESULT_MB": "64",
    "MEMORY_LIMIT_MB": "512",
    "BOT_OUTPUT_KB_PER_SECOND": str(64 * 1024),
}
# Such a text costs a bot gigabytes as well, unless it hands it over by itself.
HOSTILE = """
const fs = require("fs");

async function main(id, config) {
  const { begin, unit, end, bytes, at } = config;
  const middle = Math.floor((bytes - begin.length - end.length) / unit.length) * unit.length;
  const text = Buffer.concat([Buffer.from("R" + begin), Buffer.alloc(middle, unit), Buffer.from(end)]);
  await new Promise((resolve) => setTimeout(resolve, Math.max(0, at * 1000 - Date.now())));
  for (let written = 0; written < text.length; ) written += fs.writeSync(3, text, written);
  process.exit(0);
}

module.exports = { main };
"""
SHAPES = {
    "numbers": {"begin": '{"a": [', "unit": "0.12345678901234567, ", "end": "1]}"},
    "lists": {"begin": '{"a": [', "unit": "[], ", "end": "[]]}"},
    "depth": {"begin": "", "unit": "[", "end": "]"},
}


@dataclass
class Seen:
    """What was seen of a worker from outside.

    Attributes:
        slowest_answer_seconds: of `/healthz`.
        least_lease_seconds: what was left of its lease when the least was.
        memory_bytes: the most that was resident.
    """

    slowest_answer_seconds: float = 0.0
    least_lease_seconds: float = float("inf")
    memory_bytes: int = 0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def backtests(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[Backtests]:
    folder = tmp_path_factory.mktemp("large-results")
    async with (
        deployment(folder, docker_engine, service=BACKTEST_RUNNER, settings=SETTINGS) as made,
        listening(made) as found,
    ):
        await made.start(workers=1)
        made.platform.upload("hostile.zip", zipped({"main.js": HOSTILE}))
        yield found


@asynccontextmanager
async def watched(backtests: Backtests) -> AsyncIterator[Seen]:
    """The worker, looked at many times a second."""
    seen = Seen()
    watching = [asyncio.create_task(look(backtests, seen)) for look in (_answers, _lease, _memory)]
    try:
        yield seen
    finally:
        for task in watching:
            task.cancel()
        ended = await asyncio.gather(*watching, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


async def _answers(backtests: Backtests, seen: Seen) -> None:
    url = f"http://127.0.0.1:{backtests.deployment.processes['w1'].http_port}/healthz"
    async with aiohttp.ClientSession() as session:
        while True:
            began = time.monotonic()
            async with session.get(url) as answer:
                await answer.read()
            seen.slowest_answer_seconds = max(seen.slowest_answer_seconds, time.monotonic() - began)
            await asyncio.sleep(0.02)


async def _lease(backtests: Backtests, seen: Seen) -> None:
    partitions = backtests.deployment.mongo[BACKTEST_RUNNER.database]["partitions"]
    while True:
        async for document in partitions.find({"lease.worker_id": "w1"}):
            left = (document["lease"]["expires_at"].replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()
            seen.least_lease_seconds = min(seen.least_lease_seconds, left)
        await asyncio.sleep(0.05)


async def _memory(backtests: Backtests, seen: Seen) -> None:
    while True:
        seen.memory_bytes = max(seen.memory_bytes, resident_bytes(backtests))
        await asyncio.sleep(0.02)


def resident_bytes(backtests: Backtests) -> int:
    status = Path(f"/proc/{backtests.deployment.processes['w1'].process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def ended_together(backtests: Backtests, name: str, size: int, shape: str) -> Seen:
    """Run some that end at once, and watch their worker until all are done."""
    ids = [f"{name}-{number}" for number in range(TOGETHER)]
    at = time.time() + 10
    async with watched(backtests) as seen:
        for backtest_id in ids:
            config = {**SHAPES[shape], "bytes": size, "at": at}
            await backtests.create(backtest_id, config, key="hostile.zip", runtime="nodejs20", script="main.js")
        for backtest_id in ids:
            await backtests.done(backtest_id, within_seconds=600)
    return seen


@pytest.mark.parametrize(
    ("shape", "refusal"),
    [
        ("numbers", None),
        ("lists", f"result: what main returned has more than {MOST_VALUES:,} values"),
        ("depth", f"result: what main returned is nested more than {MOST_DEPTH} levels deep"),
    ],
)
async def test_large_results_that_end_together_cost_their_worker_no_time_and_little_memory(
    backtests: Backtests, shape: str, refusal: str | None
) -> None:
    usual = await ended_together(backtests, f"small-{shape}", 1000, "numbers")
    before = resident_bytes(backtests)

    seen = await ended_together(backtests, shape, 64 * MIB, shape)

    for number in range(TOGETHER):
        [event] = backtests.events(f"{shape}-{number}")
        assert event.get("error") == refusal
    assert seen.least_lease_seconds > 1.0
    assert seen.slowest_answer_seconds < usual.slowest_answer_seconds + 1.0
    # One of them alone has 64 MiB, and as values up to two gigabytes.
    assert seen.memory_bytes - before < 192 * MIB
    if refusal is None:
        assert hashlib.sha256(backtests.read(f"{shape}-0/analysis.json") or b"").digest() == digest_of(shape, 64 * MIB)
    else:
        assert backtests.analysis(f"{shape}-0") == {"status": "error", "message": refusal, "error": refusal}


def digest_of(shape: str, size: int) -> bytes:
    """The digest of the text that the bot makes of *shape*."""
    begin, unit, end = (SHAPES[shape][name].encode() for name in ("begin", "unit", "end"))
    return hashlib.sha256(begin + unit * ((size - len(begin) - len(end)) // len(unit)) + end).digest()
