"""Measure the downtime of an update, compared with a replacement by the bare SDK.

    python -m tests.benchmarks.updates [--updates 20] [--output json]

The downtime is the time from the end of the old version's process to the first line of the new version's code. Real
servers, a master and one worker as processes of their own, and the machine's Docker engine. The kernel reports the end
of the process, and a bot prints the time of its first line, both by the same clock. One deployment updates by standbys,
the other one without, which is the default. The bare SDK kills, removes, creates and starts a container of the same
image. They alternate, each alone on the machine. The exit code is 1 when updates by standbys miss the design's target.
"""

import argparse
import asyncio
import json
import os
import select
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import docker

from tests.benchmarks.starts import NODE, PYTHON, Language, percentile
from tests.benchmarks.with_engine import with_engine
from tests.support.eventually import eventually
from tests.support.rigs.deployment import Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

TARGET_SECONDS = 0.25
_WITHIN_SECONDS = 60
_END_MILLISECONDS = 60_000


@dataclass(frozen=True)
class Figures:
    """Seconds from the end of the old process to the first line of the new one.

    Attributes:
        ours: of updates by standbys; *plain* of those without.
    """

    language: str
    ours: Sequence[float]
    plain: Sequence[float]
    bare: Sequence[float]

    @property
    def ratio(self) -> float:
        """The median downtime of an update divided by that of the bare SDK."""
        return statistics.median(self.ours) / statistics.median(self.bare)

    @property
    def good(self) -> bool:
        """Whether the target is met."""
        return statistics.median(self.ours) <= TARGET_SECONDS


async def measure(folder: Path, engine: Engine, updates: int, languages: Sequence[Language]) -> list[Figures]:
    """Update a bot of each language that many times, by standbys and without, and replace as many bare containers.

    One of each before that does not count.
    """
    figures = []
    (folder / "standbys").mkdir()
    (folder / "plain").mkdir()
    async with (
        deployment(folder / "standbys", engine, settings={"STANDBY_UPDATES": "true"}) as by_standbys,
        deployment(folder / "plain", engine) as plainly,
    ):
        both = (by_standbys, plainly)
        for made in both:
            await made.start(workers=1)
        for language in languages:
            code = folder / language.runtime
            code.mkdir()
            (code / language.script).write_text(language.source)
            for made in both:
                made.platform.upload(language.runtime, zipped({language.script: language.source}))
                await made.platform.create_bot(
                    language.runtime, {}, key=language.runtime, runtime=language.runtime, script=language.script
                )
            taken: list[list[float]] = [[], [], []]
            for number in range(updates + 1):
                turns = [
                    *(partial(_ours, made, language, number) for made in both),
                    partial(_bare, engine, language, code),
                ]
                for index in (0, 1, 2) if number % 2 else (2, 1, 0):
                    seconds = await turns[index]()
                    if number:
                        taken[index].append(seconds)
            for made in both:
                await made.platform.delete_bot(language.runtime)
                await eventually(partial(_is_gone, made, language.runtime), within_seconds=_WITHIN_SECONDS)
            figures.append(Figures(language.runtime, *taken))
    return figures


async def _is_gone(made: Deployment, bot_id: str) -> bool:
    return await made.containers(bot_id) == []


async def _ours(made: Deployment, language: Language, number: int) -> float:
    """Update the running bot; no request to the engine is made until the new version runs."""
    old = await eventually(lambda: made.running_with(language.runtime, "first"), within_seconds=_WITHIN_SECONDS)
    process = await asyncio.to_thread(_bot_process, made.engine, old["Id"])
    watching = asyncio.create_task(asyncio.to_thread(_end_of, process))
    await made.platform.update_bot(
        language.runtime, {"number": number}, key=language.runtime, runtime=language.runtime, script=language.script
    )
    ended = await watching
    run_id = old["Labels"]["runtime.run-id"]

    async def replaced() -> bool:
        document = await made.document(language.runtime)
        status = document["status"] if document is not None else {}
        return status.get("state") == "running" and status.get("run_id") != run_id

    await eventually(replaced, within_seconds=_WITHIN_SECONDS)

    new = await eventually(lambda: made.running_with(language.runtime, "first"), within_seconds=_WITHIN_SECONDS)
    return _time_in(made.output(new)) - ended


async def _bare(engine: Engine, language: Language, code: Path) -> float:
    """Replace a container by the bare SDK."""
    client = docker.DockerClient(base_url=engine.url, timeout=60)
    volumes = {str(code): {"bind": "/code", "mode": "ro"}}

    def begun() -> Any:
        container = client.containers.create(language.image, list(language.command), volumes=volumes)
        container.start()
        return container

    def replaced() -> tuple[Any, float]:
        old.kill()
        ended = _end_of(process)
        old.remove(force=True)
        return begun(), ended

    old = await asyncio.to_thread(begun)
    process = (await asyncio.to_thread(client.api.inspect_container, old.id))["State"]["Pid"]
    await eventually(lambda: client.api.logs(old.id), within_seconds=_WITHIN_SECONDS)
    new, ended = await asyncio.to_thread(replaced)
    try:
        output: bytes = await eventually(lambda: client.api.logs(new.id), within_seconds=_WITHIN_SECONDS)
        return _time_in(output.decode()) - ended
    finally:
        await asyncio.to_thread(client.api.remove_container, new.id, force=True)
        client.close()


def _time_in(output: str) -> float:
    return float(output.split()[1])


def _bot_process(engine: Engine, container_id: str) -> int:
    """Return the process of the bot: the first child of the container's init."""
    client = docker.DockerClient(base_url=engine.url, timeout=60)
    try:
        init = client.api.inspect_container(container_id)["State"]["Pid"]
    finally:
        client.close()
    return int(Path(f"/proc/{init}/task/{init}/children").read_text().split()[0])


def _end_of(process: int) -> float:
    """Wait for the end of *process*; return its time in Unix seconds."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return time.time()
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(_END_MILLISECONDS):
            raise TimeoutError(f"process {process} has not ended")
        return time.time()
    finally:
        os.close(descriptor)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=20, help="updates of each runtime (%(default)s)")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    measured = asyncio.run(
        with_engine(lambda folder, engine: measure(folder, engine, arguments.updates, (PYTHON, NODE)))
    )
    if arguments.output == "json":
        print(
            json.dumps(
                {
                    one.language: {"ours": list(one.ours), "plain": list(one.plain), "bare": list(one.bare)}
                    for one in measured
                }
            )
        )
    else:
        for one in measured:
            print(_text(one))
    return 0 if all(one.good for one in measured) else 1


def _text(figures: Figures) -> str:
    lines = [f"{figures.language:<34}      least    median       p95   longest"]
    for name, values in (("by a standby", figures.ours), ("without", figures.plain), ("bare SDK", figures.bare)):
        least, median, longest = min(values), statistics.median(values), max(values)
        lines.append(f"  {name:<32} {least:9.3f} {median:9.3f} {percentile(values, 95):9.3f} {longest:9.3f} s")
    lines.append(f"  ratio of the medians {figures.ratio:6.2f}; target of the median {TARGET_SECONDS} s")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
