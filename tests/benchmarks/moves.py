"""Measure how long bots are down when their worker is replaced by one of another engine.

    python -m tests.benchmarks.moves [--bots 3] [--output json]

As during a rollout in which engines go: the next worker is ready on another engine, then the bots' worker ends. The
downtime is the longest time between two ticks of a bot around the move, by the clock of the machine. Needs root, for
the second engine. The exit code is 1 when the target is missed.
"""

import argparse
import asyncio
import itertools
import json
import sys
import time
from functools import partial
from pathlib import Path

from libs.core.api.log_output import MOST_LINES
from tests.benchmarks.with_engine import with_engine
from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.servers.own_engine import own_engine
from tools.engine.ensure import Engine

TARGET_SECONDS = 3.0
_WITHIN_SECONDS = 300.0
_TICKS_AFTERWARDS = 10
_CODE = """
import time
def main(id, config):
    while True:
        print("tick", time.time(), flush=True)
        time.sleep(0.1)
"""


async def measure(folder: Path, engine: Engine, bots: int) -> list[float]:
    """Return the downtime of each bot."""
    async with own_engine(engine, gvisor=False) as other, deployment(folder, engine, settings=PATIENT) as made:
        made.platform.upload("bot.zip", zipped({"main.py": _CODE}))
        await made.start(workers=1)
        ids = [f"b{number}" for number in range(bots)]
        for bot_id in ids:
            await made.platform.create_bot(bot_id, {}, key="bot.zip")
        for bot_id in ids:
            await eventually(partial(made.running_with, bot_id, "tick"), within_seconds=_WITHIN_SECONDS)
        await made.start_process("worker", "arriving", **made.on_other_engine(other.url)).wait_ready()
        await made.processes["w1"].process.stop(grace_seconds=_WITHIN_SECONDS)
        stopped = time.time()
        downtime = partial(_downtime, made, stopped)
        return [await eventually(partial(downtime, bot_id), within_seconds=_WITHIN_SECONDS) for bot_id in ids]


async def _downtime(made: Deployment, stopped: float, bot_id: str) -> float:
    """Return the longest time without a tick; 0 while the bot's log has too few ticks after *stopped*."""
    logs = await made.terminal().succeed("bot", "logs", bot_id, "-n", str(MOST_LINES))
    ticks = [float(line.split()[1]) for line in logs.out.splitlines() if line.startswith("tick ")]
    if sum(tick > stopped for tick in ticks) < _TICKS_AFTERWARDS:
        return 0.0
    return max(later - earlier for earlier, later in itertools.pairwise(ticks))


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bots", type=int, default=3, help="bots that move together (%(default)s)")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    seconds = asyncio.run(with_engine(lambda folder, engine: measure(folder, engine, arguments.bots)))
    if arguments.output == "json":
        print(json.dumps(seconds))
    else:
        print(f"down {min(seconds):.2f} to {max(seconds):.2f} s; target: {TARGET_SECONDS:g} s")
    return 0 if max(seconds) <= TARGET_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
