"""Measure backtests per second with a pool of 8, compared with the bare SDK with 8 threads, and beside a slow backtest.

    python -m tests.benchmarks.backtests [--backtests 96] [--output json]

Real servers, a master and one worker as processes of their own, and the machine's Docker engine. The baseline runs as
many containers of the same image and code: create, start, wait, read the output, remove, in 8 threads. The two
alternate, so that a temporary load of the machine affects both. The exit code is 1 when the design's target is missed.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import docker

from libs.core.process.service import BACKTEST_RUNNER
from tests.benchmarks.with_engine import with_engine
from tests.support.eventually import eventually
from tests.support.rigs.backtests import Backtests, listening
from tests.support.rigs.deployment import deployment
from tools.engine.ensure import Engine

TARGET_RATIO = 0.85
POOL = 8
_SHORT = "def main(id, config):\n    return {'metrics': {'answer': 42}}\n"
_SLOW = "import time\ndef main(id, config):\n    time.sleep(3600)\n"
_BARE = "import sys; sys.path.insert(0, '/code'); import json, main; print(json.dumps(main.main('b', {})))"
_SETTINGS = {
    "BATCH_SIZE": str(POOL),
    "PARALLEL_STARTS": str(POOL),
    "MAX_BACKTESTS_PER_PARTITION": "10000",
    "BATCH_TIMEOUT": "600",
}
_WITHIN_SECONDS = 600
_TURNS = 4


@dataclass(frozen=True)
class Figures:
    """The results. *done_beside_a_slow_one*: how many of 50 short backtests completed while an endless one ran."""

    backtests: int
    per_second: float
    bare_per_second: float
    done_beside_a_slow_one: int
    slow_one_still_running: bool

    @property
    def ratio(self) -> float:
        """The runtime's time divided by the bare SDK's."""
        return self.per_second / self.bare_per_second

    @property
    def good(self) -> bool:
        """Whether the targets are met."""
        return self.ratio >= TARGET_RATIO and self.done_beside_a_slow_one == 50 and self.slow_one_still_running


async def measure(folder: Path, engine: Engine, backtests: int) -> Figures:
    """Run everything once."""
    (folder / "code").mkdir()
    (folder / "code" / "main.py").write_text(_SHORT)
    async with deployment(folder, engine, service=BACKTEST_RUNNER, settings=_SETTINGS) as made, listening(made) as ours:
        # One worker owns one segment. Without one with room at the start, concurrent events create several.
        database = made.mongo[BACKTEST_RUNNER.database]
        await database["partitions"].insert_one({"_id": 1, "bot_count": 0})
        await database["counters"].insert_one({"_id": "partition_id", "seq": 1})
        await made.start(workers=1)
        ours.upload("short.zip", _SHORT)
        ours.upload("slow.zip", _SLOW)
        await _batch(ours, [f"warm-{number}" for number in range(POOL)])
        took = bare = 0.0
        each = max(1, backtests // _TURNS)
        for turn in range(_TURNS):
            bare += await asyncio.to_thread(_bare, engine, folder / "code", each)
            took += await _batch(ours, [f"timed-{turn}-{number}" for number in range(each)])
        await ours.create("slow", key="slow.zip")
        await eventually(lambda: made.containers("slow"), within_seconds=60)
        beside = [f"beside-{number}" for number in range(50)]
        await _batch(ours, beside)
        done = sum(bool(ours.events(backtest_id)) for backtest_id in beside)
        still_running = bool(await made.containers("slow"))
    timed = _TURNS * each
    return Figures(timed, timed / took, timed / bare, done, still_running)


async def _batch(ours: Backtests, ids: Sequence[str]) -> float:
    """Return the seconds from the first published event to the last received completion."""
    begun = time.perf_counter()
    for backtest_id in ids:
        await ours.create(backtest_id, key="short.zip")
    await eventually(lambda: all(ours.events(one) for one in ids), within_seconds=_WITHIN_SECONDS)
    return time.perf_counter() - begun


def _bare(engine: Engine, code: Path, number: int) -> float:
    """Return the seconds that the bare SDK needs for *number* containers."""
    client = docker.DockerClient(base_url=engine.url, timeout=60)

    def one(_: int) -> bytes:
        container = client.containers.create(
            "python:3.11-slim",
            ["python3", "-c", _BARE],
            volumes={str(code): {"bind": "/code", "mode": "ro"}},
            environment={"PYTHONDONTWRITEBYTECODE": "1"},
        )
        try:
            container.start()
            container.wait()
            return bytes(container.logs())
        finally:
            container.remove(force=True)

    begun = time.perf_counter()
    try:
        with ThreadPoolExecutor(POOL) as threads:
            outputs = list(threads.map(one, range(number)))
    finally:
        client.close()
    if not all(b"42" in output for output in outputs):
        raise AssertionError(f"the baseline does not run: {outputs[0]!r}")
    return time.perf_counter() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backtests", type=int, default=96, help="how many are timed (%(default)s)")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    figures = asyncio.run(with_engine(lambda folder, engine: measure(folder, engine, arguments.backtests)))
    if arguments.output == "json":
        print(json.dumps({**asdict(figures), "ratio": figures.ratio}))
    else:
        print(f"backtests a second, pool of {POOL}       {figures.per_second:8.2f}")
        print(f"bare SDK, {POOL} threads                 {figures.bare_per_second:8.2f}")
        print(f"ratio (target {TARGET_RATIO})               {figures.ratio:8.2f}")
        print(f"of 50 short ones done beside a slow one {figures.done_beside_a_slow_one:4}")
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main())
