"""Measure the time from an event to the first line of the bot's code, compared with a bare start by the SDK.

    python -m tests.benchmarks.starts [--starts 30] [--output json]

Real servers, a master and one worker as processes of their own, and the machine's Docker engine. Both kinds of starts
alternate, each alone on the machine, so that other load affects both. A bot prints the time of its first line by the
clock of its host, by which the event was published and the bare start was requested too. The exit code is 1 when the
design's target is missed.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import docker

from tests.benchmarks.with_engine import with_engine
from tests.support.eventually import eventually
from tests.support.rigs.deployment import Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

TARGET_P50_RATIO = 1.5
TARGET_P95_RATIO = 2.5
_SETTINGS = {"MAX_BOTS_PER_PARTITION": "10000"}


@dataclass(frozen=True)
class Language:
    """One runtime: its bot prints the time at its first line, in the runtime and under a bare interpreter."""

    runtime: str
    image: str
    script: str
    source: str
    command: tuple[str, ...]


PYTHON = Language(
    "python3.11",
    "python:3.11-slim",
    "main.py",
    "import time\nprint('first', time.time(), flush=True)\ndef main(id, config):\n    time.sleep(3600)\n",
    ("python3", "-c", "import sys; sys.path.insert(0, '/code'); import main; main.main('b', {})"),
)
NODE = Language(
    "nodejs20",
    "node:20-alpine",
    "main.js",
    "console.log('first', (performance.timeOrigin + performance.now()) / 1000);\n"
    "module.exports = { main: () => new Promise(() => setInterval(() => 0, 1000)) };\n",
    ("node", "-e", "require('/code/main.js').main('b', {})"),
)


@dataclass(frozen=True)
class Start:
    """Seconds from the request (the event, or the call of the SDK) until the engine had created the container, until
    it had started it, and until the bot's first line.
    """

    created: float
    started: float
    first_line: float


@dataclass(frozen=True)
class Figures:
    """The results for one runtime."""

    language: str
    ours: Sequence[Start]
    bare: Sequence[Start]

    def ratio(self, percent: float) -> float:
        """The runtime's time divided by the bare SDK's, each at that percentile."""
        return percentile([start.first_line for start in self.ours], percent) / percentile(
            [start.first_line for start in self.bare], percent
        )

    @property
    def good(self) -> bool:
        """Whether the targets are met."""
        return self.ratio(50) <= TARGET_P50_RATIO and self.ratio(95) <= TARGET_P95_RATIO


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that *percent* of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * round(percent) // 100) - 1))]


async def measure(folder: Path, engine: Engine, starts: int, languages: Sequence[Language]) -> list[Figures]:
    """Start *starts* bots and as many bare containers of each language; one of each before that does not count.

    Each bot is the only one: its segment has no owner before it comes, so that finding one is part of its start.
    """
    figures = []
    async with deployment(folder, engine, settings=_SETTINGS) as made:
        await made.start(workers=1)
        for language in languages:
            code = folder / language.runtime
            code.mkdir()
            (code / language.script).write_text(language.source)
            made.platform.upload(language.runtime, zipped({language.script: language.source}))
            ours, bare = [], []
            for number in range(starts + 1):
                turns = [
                    partial(_ours, made, language, f"{language.runtime}-{number}"),
                    partial(_bare, engine, language, code),
                ]
                first = number % 2
                taken = {index: await turns[index]() for index in (first, 1 - first)}
                if number:
                    ours.append(taken[0])
                    bare.append(taken[1])
            figures.append(Figures(language.runtime, ours, bare))
    return figures


async def _ours(made: Deployment, language: Language, bot_id: str) -> Start:
    """Start by an event. No request to the engine delays the start: the first one follows once the bot runs."""
    asked = time.time()
    await made.platform.create_bot(bot_id, {}, key=language.runtime, runtime=language.runtime, script=language.script)
    await eventually(lambda: made.in_state(bot_id, "running"), within_seconds=60)
    container = await eventually(lambda: made.running_with(bot_id, "first"), within_seconds=60)
    start = await asyncio.to_thread(_start_of, made.engine, container["Id"], asked)
    await made.platform.delete_bot(bot_id)

    async def gone() -> bool:
        return await made.document(bot_id) is None and await made.containers(bot_id) == []

    await eventually(gone, within_seconds=60)
    return start


async def _bare(engine: Engine, language: Language, code: Path) -> Start:
    """Start by the bare SDK."""
    client = docker.DockerClient(base_url=engine.url, timeout=60)

    def begun() -> tuple[str, float]:
        client.ping()
        asked = time.time()
        container = client.containers.create(
            language.image, list(language.command), volumes={str(code): {"bind": "/code", "mode": "ro"}}
        )
        container.start()
        return str(container.id), asked

    try:
        container_id, asked = await asyncio.to_thread(begun)
        try:
            await eventually(lambda: client.api.logs(container_id), within_seconds=60)
            return await asyncio.to_thread(_start_of, engine, container_id, asked)
        finally:
            await asyncio.to_thread(client.api.remove_container, container_id, force=True)
    finally:
        client.close()


def _start_of(engine: Engine, container_id: str, asked: float) -> Start:
    """Return the times of a start by the engine and by the bot."""
    client = docker.DockerClient(base_url=engine.url, timeout=60)
    try:
        found: dict[str, Any] = client.api.inspect_container(container_id)
        first_line = float(client.api.logs(container_id).split()[1])
    finally:
        client.close()
    return Start(_seconds(found["Created"]) - asked, _seconds(found["State"]["StartedAt"]) - asked, first_line - asked)


def _seconds(text: str) -> float:
    """Return the Unix seconds of the engine's time, which has nanoseconds."""
    return datetime.fromisoformat(text[:26].rstrip("Z")).replace(tzinfo=UTC).timestamp()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=30, help="bots of each runtime (%(default)s)")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    measured = asyncio.run(
        with_engine(lambda folder, engine: measure(folder, engine, arguments.starts, (PYTHON, NODE)))
    )
    if arguments.output == "json":
        print(json.dumps({one.language: {"p50": one.ratio(50), "p95": one.ratio(95)} for one in measured}))
    else:
        for one in measured:
            print(_text(one))
    return 0 if all(one.good for one in measured) else 1


def _text(figures: Figures) -> str:
    lines = [f"{figures.language:<34}   median: created   started  first line      p95"]
    for name, starts in (("from the event", figures.ours), ("bare SDK", figures.bare)):
        phases = [
            statistics.median(values)
            for values in zip(*((start.created, start.started, start.first_line) for start in starts), strict=True)
        ]
        p95 = percentile([start.first_line for start in starts], 95)
        lines.append(f"  {name:<40} {phases[0]:9.3f} {phases[1]:9.3f} {phases[2]:11.3f} {p95:8.3f} s")
    lines.append(f"  ratio, p50 (target {TARGET_P50_RATIO}) {figures.ratio(50):8.2f}")
    lines.append(f"  ratio, p95 (target {TARGET_P95_RATIO}) {figures.ratio(95):8.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
