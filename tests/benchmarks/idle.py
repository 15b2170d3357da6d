"""Measure an idle master and an idle worker: resident memory, processor time, and the time until they are ready.

    python -m tests.benchmarks.idle [--seconds 20] [--output json]

Real servers, and for each service a master and a worker as processes as in production, the worker without a segment.
The baseline of the start is a process of the same interpreter that only imports what every process of ours needs. The
exit code is 1 when the design's target is missed.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from libs.core.process.service import SERVICES, ServiceDefinition
from tests.benchmarks import as_in_image
from tests.benchmarks.process_usage import processor_seconds, resident_mb
from tests.benchmarks.with_engine import with_engine
from tests.support.rigs.deployment import deployment
from tools.engine.ensure import Engine
from tools.stack.process import BackgroundProcess

TARGET_MB = 100.0
TARGET_CORE_PERCENT = 1.0
TARGET_READY_SECONDS = 2.0
_SETTLE_SECONDS = 3.0


@dataclass(frozen=True)
class Figures:
    """One idle process. *import_seconds*: for comparison, the time of a bare import of the drivers."""

    name: str
    resident_mb: float
    core_percent: float
    ready_seconds: float
    import_seconds: float

    @property
    def good(self) -> bool:
        """Whether the targets are met."""
        return (
            self.resident_mb <= TARGET_MB
            and self.core_percent <= TARGET_CORE_PERCENT
            and self.ready_seconds <= TARGET_READY_SECONDS
        )


async def measure(
    folder: Path, engine: Engine, seconds: float, services: Sequence[ServiceDefinition] = SERVICES
) -> list[Figures]:
    """Start a master and a worker of each service, and observe them idle for *seconds*."""
    figures = []
    for service in services:
        async with deployment(folder / service.name, engine, service=service) as made:
            for role in ("master", "worker"):
                importing = await _import_seconds(folder)
                begun = time.perf_counter()
                process = made.start_process(role, role, under=(as_in_image.__name__,), **as_in_image.ENVIRONMENT)
                await process.wait_ready()
                ready = time.perf_counter() - begun
                await asyncio.sleep(_SETTLE_SECONDS)
                before = processor_seconds(process.process.pid)
                await asyncio.sleep(seconds)
                used = processor_seconds(process.process.pid) - before
                resident = resident_mb(process.process.pid)
                figures.append(Figures(f"{service.name} {role}", resident, 100 * used / seconds, ready, importing))
    return figures


async def _import_seconds(folder: Path) -> float:
    code = "import aiohttp.web, grpc.aio, nats, pymongo, pydantic_settings"
    process = BackgroundProcess("import", [sys.executable, "-P", "-c", code], folder / "import.log", dict(os.environ))
    begun = time.perf_counter()
    process.launch()
    if await process.wait(within_seconds=60) != 0:
        raise process.failure("cannot import the drivers")
    return time.perf_counter() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each is watched (%(default)s)")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    measured = asyncio.run(with_engine(lambda folder, engine: measure(folder, engine, arguments.seconds)))
    if arguments.output == "json":
        print(json.dumps([asdict(one) for one in measured]))
    else:
        print(f"{'':<26} resident   of a core     ready   drivers imported")
        for one in measured:
            print(
                f"{one.name:<26} {one.resident_mb:5.1f} MB {one.core_percent:9.2f} % {one.ready_seconds:8.2f} s "
                f"{one.import_seconds:12.2f} s"
            )
        print(f"targets: {TARGET_MB:g} MB, {TARGET_CORE_PERCENT:g} %, {TARGET_READY_SECONDS:g} s")
    return 0 if all(one.good for one in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
