"""Measure the processor time of container statistics, as a share of one core.

    python -m tests.benchmarks.container_statistics [--containers 50] [--output json]

Bots that sleep run on a real engine and are sampled as a worker does it. Counted are the worker (its processor time for
a sample), the first processes inside (all their processor time while the bots sleep, and so that of the notes), and the
engine (the time of one list, which is requested every five minutes while nothing happens). For comparison, the same run
measures how long the engine takes to answer for one container. The exit code is 1 when the target is missed.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.engine.client import Engine as EngineClient
from libs.docker_runner.executable import Executable, Network
from libs.docker_runner.usage.sampler import LIST_SECONDS, SAMPLE_SECONDS, UsageSampler
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tests.support.servers.docker import remove_containers
from tools.engine.ensure import ensure_engine
from tools.images.ensure import ensure_images

TARGET_CORE_SHARE = 0.01
"""For 50 containers."""

_ROUNDS = 20
_ROUNDS_OF_STATISTICS = 3
"""The engine takes a second for each, by its own design."""
_AT_ONCE = 4
_SLEEPER = "import time\ndef main(id, config):\n    time.sleep(86400)"
_INIT = "the0-init"
_WATCHED_SECONDS = 2 * SAMPLE_SECONDS
"""Two notes of each container."""


@dataclass(frozen=True)
class StatisticsFigures:
    """Seconds each: the worker's processor time for a sample of all, that of one container's first processes between
    two samples, and the time of the engine for a list, and for the statistics of one container.
    """

    containers: int
    worker_sample: float
    init: float
    engine_list: float
    engine_statistics: float

    @property
    def processor_share(self) -> float:
        """The share of one core that the worker and the first processes use."""
        return (self.worker_sample + self.containers * self.init) / SAMPLE_SECONDS

    @property
    def core_share(self) -> float:
        """The share of one core that everything uses."""
        return self.processor_share + self.engine_list / LIST_SECONDS

    @property
    def good(self) -> bool:
        """Whether the target is met."""
        return self.core_share <= TARGET_CORE_SHARE * self.containers / 50


async def measure(bots: BotContainers, url: str, containers: int) -> StatisticsFigures:
    """Start as many bots, and measure."""
    starting = asyncio.Semaphore(_AT_ONCE)

    async def start(executable: Executable) -> ManagedContainer:
        async with starting:
            return await bots.runner.start(executable)

    # All of them before the first one starts: each writes the same code again.
    executables = [bots.executable(_SLEEPER, f"b{number}") for number in range(containers)]
    started = await asyncio.gather(*(start(executable) for executable in executables))
    sampler = UsageSampler(bots.runner, service="bot-runner", scope=bots.scope, owns=lambda _: True)

    async def all_known() -> bool:
        await sampler.sample_once()
        return len(bots.runner.usage.latest) == containers

    await eventually(all_known, within_seconds=60, every_seconds=1)
    engine = EngineClient(url)
    try:
        engine_statistics = await _seconds(
            lambda: engine.stats(started[0].container_id), time.perf_counter, _ROUNDS_OF_STATISTICS
        )
    finally:
        await engine.close()
    return StatisticsFigures(
        containers,
        worker_sample=await _seconds(sampler.sample_once, time.process_time),
        init=await _init_seconds([one.container_id for one in started]) / containers,
        engine_list=await _seconds(bots.list, time.perf_counter),
        engine_statistics=engine_statistics,
    )


async def _init_seconds(container_ids: Sequence[str]) -> float:
    """Return the processor time of the first processes of all these containers between two samples."""
    before = await asyncio.to_thread(_processor_seconds, container_ids)
    await asyncio.sleep(_WATCHED_SECONDS)
    after = await asyncio.to_thread(_processor_seconds, container_ids)
    spent = sum(after[process] - before[process] for process in after.keys() & before.keys())
    return spent * SAMPLE_SECONDS / _WATCHED_SECONDS


def _processor_seconds(container_ids: Sequence[str]) -> dict[str, float]:
    """Return the processor time of each such process, as the scheduler of this host counts it."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if (process / "comm").read_text().strip() != _INIT:
                continue
            groups = (process / "cgroup").read_text()
            if any(container_id in groups for container_id in container_ids):
                found[process.name] = int((process / "schedstat").read_text().split()[0]) / 1e9
    return found


async def _seconds(call: Callable[[], Awaitable[object]], clock: Callable[[], float], rounds: int = _ROUNDS) -> float:
    begun = clock()
    for _ in range(rounds):
        await call()
    return (clock() - begun) / rounds


async def _main(containers: int, *, as_json: bool) -> int:
    engine = await ensure_engine()
    await ensure_images(engine)
    scope = "benchmark-statistics"
    with tempfile.TemporaryDirectory() as folder:
        try:
            async with bot_containers(Path(folder), scope, engine.url, network=Network.NONE) as bots:
                figures = await measure(bots, engine.url, containers)
        finally:
            await asyncio.to_thread(remove_containers, engine, scope)
    if as_json:
        print(json.dumps(asdict(figures)))
    else:
        for name, value in asdict(figures).items():
            print(f"{name:24} {value:.6f}" if isinstance(value, float) else f"{name:24} {value}")
        print(f"{'share of a core':24} {figures.core_share:.2%}: {'met' if figures.good else 'MISSED'}")
    return 0 if figures.good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--containers", type=int, default=50)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    sys.exit(asyncio.run(_main(options.containers, as_json=options.output == "json")))
