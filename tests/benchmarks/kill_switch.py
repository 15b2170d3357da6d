"""Measure the time until all bots of one worker are down, and recorded, after `runtime bot kill --all`.

Then all end by themselves at once, and the time until that is recorded is measured.

    python -m tests.benchmarks.kill_switch [--bots 30] [--output json]

Real servers, a master and one worker as processes of their own, the machine's Docker engine, and the command as users
run it. A bot is down when the kernel reports that its container's first process has ended; no other process of it is
alive then. The time counts from the hold that the command writes. The exit code is 1 when a bot is down later than
after a second, when its reported time differs, or when it is recorded more than a second after its end. A machine with
two processors may be too slow for the last one: then its end must be recorded before the engine has answered the bare
SDK, which kills as many containers at once.
"""

import argparse
import asyncio
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import docker

from tests.benchmarks.with_engine import with_engine
from tests.support.eventually import eventually
from tests.support.rigs.deployment import Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

TARGET_SECONDS = 1.0
REPORTED_WITHIN_SECONDS = 0.25
_BOT = "import time\ndef main(id, config):\n    print('up', flush=True)\n    while True:\n        time.sleep(0.5)\n"
_WITHIN_SECONDS = 300


@dataclass(frozen=True)
class Figures:
    """The results, in seconds.

    Attributes:
        down: from the hold to the end of each bot, in ascending order.
        reported: largest difference between the end of a bot and the time that the command reports.
        recorded: from the end of a bot to its record, the longest.
        by_itself: from the end of a bot to its record, the longest, when all end at once without a stop.
        bare: from the end of a container to the engine's answer about it, the longest, killed by the bare SDK.
        resumed: from the end of `runtime bot resume` until all run again.
    """

    bots: int
    down: list[float]
    reported: float
    recorded: float
    by_itself: float
    bare: float
    resumed: float

    @property
    def good(self) -> bool:
        """Whether the targets are met."""
        on_record = max(self.recorded, self.by_itself) <= max(TARGET_SECONDS, self.bare)
        return max(self.down) <= TARGET_SECONDS and self.reported <= REPORTED_WITHIN_SECONDS and on_record


async def measure(folder: Path, engine: Engine, bots: int) -> Figures:
    """Start that many bots, kill them all, and let them run again."""
    bare = await asyncio.to_thread(_bare, engine, bots)
    settings = {"MAX_BOTS_PER_PARTITION": str(bots), "MEMORY_LIMIT_MB": "128"}
    async with deployment(folder, engine, settings=settings) as made:
        made.platform.upload("bot.zip", zipped({"main.py": _BOT}))
        # One worker owns one segment. Without one with room at the start, concurrent events create several.
        database = made.mongo[made.service.database]
        await database["partitions"].insert_one({"_id": 1, "bot_count": 0})
        await database["counters"].insert_one({"_id": "partition_id", "seq": 1})
        await made.start(workers=1)
        ids = [f"b{number}" for number in range(bots)]
        for bot_id in ids:
            await made.platform.create_bot(bot_id, {}, key="bot.zip")
        await _all_running(made, bots)

        with _ends(await _first_processes(made)) as ends:
            watching = asyncio.create_task(_recorded(made, bots))
            killed = await _command(made, "kill", "--all")
            recorded = await watching
        slowest = max(recorded[one] - ends[one] for one in ids)
        since = datetime.fromisoformat(killed["since"]).timestamp()
        reported = {one: datetime.fromisoformat(at).timestamp() for one, at in killed["down_at"].items()}

        await _command(made, "resume", "--all")
        begun = time.perf_counter()
        await _all_running(made, bots)
        resumed = time.perf_counter() - begun

        processes = await _first_processes(made)
        with _ends(processes) as own_ends:
            watching = asyncio.create_task(_recorded(made, bots))
            for process in processes.values():
                os.kill(process, signal.SIGTERM)
            recorded = await watching
        return Figures(
            bots=bots,
            down=sorted(ends[one] - since for one in ids),
            reported=max(abs(reported[one] - ends[one]) for one in ids),
            recorded=slowest,
            by_itself=max(recorded[one] - own_ends[one] for one in ids),
            bare=bare,
            resumed=resumed,
        )


async def _first_processes(made: Deployment) -> dict[str, int]:
    """Return the first process of each bot, by the bot's id, once all have printed something."""
    containers = await made.containers()

    def all_up() -> bool:
        return all("up" in made.output(container) for container in containers)

    await eventually(lambda: asyncio.to_thread(all_up), within_seconds=_WITHIN_SECONDS)
    return await asyncio.to_thread(_processes, made.engine, containers)


def _processes(engine: Engine, containers: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    client = docker.DockerClient(base_url=engine.url, timeout=60)
    try:
        return {
            one["Labels"]["runtime.id"]: client.api.inspect_container(one["Id"])["State"]["Pid"] for one in containers
        }
    finally:
        client.close()


@contextmanager
def _ends(processes: Mapping[str, int]) -> Iterator[dict[str, float]]:
    """The Unix time at which each of *processes* ended; complete when all have ended and the context is left."""
    ends: dict[str, float] = {}
    given_up = threading.Event()

    def watch(descriptors: Mapping[int, str]) -> None:
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        while len(ends) < len(descriptors) and not given_up.is_set():
            for descriptor, _ in poll.poll(1000):
                ends[descriptors[descriptor]] = time.time()
                poll.unregister(descriptor)

    with ExitStack() as opened:
        descriptors = {os.pidfd_open(process): name for name, process in processes.items()}
        for descriptor in descriptors:
            opened.callback(os.close, descriptor)
        with ThreadPoolExecutor(1) as watching:
            watched = watching.submit(watch, descriptors)
            try:
                yield ends
                watched.result(timeout=_WITHIN_SECONDS)
            finally:
                given_up.set()


async def _all_running(made: Deployment, bots: int) -> None:
    async def running() -> bool:
        found = made.mongo[made.service.database][made.service.collection]
        return await found.count_documents({"status.state": "running"}) == bots

    await eventually(running, within_seconds=_WITHIN_SECONDS)


async def _recorded(made: Deployment, bots: int) -> dict[str, float]:
    """The time at which the end of each bot was first seen in the history, by its id, from now on."""
    seen: dict[str, float] = {}
    runs = made.mongo[made.service.database]["runs"]
    begun = datetime.now(UTC)

    async def all_seen() -> bool:
        async for run in runs.find({"ended_at": {"$gte": begun}}, {"entity_id": 1}):
            seen.setdefault(run["entity_id"], time.time())
        return len(seen) == bots

    await eventually(all_seen, within_seconds=_WITHIN_SECONDS, every_seconds=0.02)
    return seen


async def _command(made: Deployment, *arguments: str) -> dict[str, Any]:
    """Return the output of `runtime bot …`."""
    environment: Mapping[str, str] = {**os.environ, "MONGO_URI": made.mongod.uri, "NATS_URL": made.nats_server.url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tools.cli", "bot", *arguments, "--output", "json",
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise AssertionError(f"`runtime bot {' '.join(arguments)}` failed")
    return dict(json.loads(output))


def _bare(engine: Engine, number: int) -> float:
    """Return the seconds until the engine reports the end of each of so many containers that are killed at once."""
    client = docker.DockerClient(base_url=engine.url, timeout=60, max_pool_size=number)
    started = []

    def kill(container: Any) -> float:
        container.kill()
        container.reload()
        reported = time.time()
        return reported - datetime.fromisoformat(container.attrs["State"]["FinishedAt"]).timestamp()

    try:
        for _ in range(number):
            command = ["python3", "-c", "import time; time.sleep(3600)"]
            started.append(client.containers.run("python:3.11-slim", command, detach=True, mem_limit="128m"))
        with ThreadPoolExecutor(number) as threads:
            return max(threads.map(kill, started))
    finally:
        for container in started:
            container.remove(force=True)
        client.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bots", type=int, default=30, help="how many run on the worker (%(default)s)")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    figures = asyncio.run(with_engine(lambda folder, engine: measure(folder, engine, arguments.bots)))
    if arguments.output == "json":
        print(json.dumps(asdict(figures)))
    else:
        print(f"bots on one worker                      {figures.bots:6}")
        print(f"first down after                        {figures.down[0]:6.2f} s")
        print(f"last down after (target {TARGET_SECONDS:g} s)           {figures.down[-1]:6.2f} s")
        print(f"reported to be down, off by at most         {figures.reported:6.2f} s")
        print(f"on record after its end (target {TARGET_SECONDS:g} s)   {figures.recorded:6.2f} s")
        print(f"likewise, ended by itself               {figures.by_itself:6.2f} s")
        print(f"the engine alone                        {figures.bare:6.2f} s")
        print(f"all running again after resume          {figures.resumed:6.2f} s")
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main())
