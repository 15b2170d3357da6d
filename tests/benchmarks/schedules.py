"""Measure how late schedules start: one worker with 1,000 of them, compared with a loop that polls every 5 s.

    python -m tests.benchmarks.schedules [--schedules 1000] [--seconds 40] [--output json]

A real MongoDB; lateness is measured at the call that requests a container of the docker runner, which is a fake here.
Two loads: *spread*, each schedule once a minute at a second of its own, and *together*, all of them at the same moment
every 20 s. The baseline, taken in the same run over the documents of *spread*, looks every 5 s for documents whose time
has come and moves each on with an update. The exit code is 1 when a firing is lost or the target of the design is
missed.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from libs.core.config.process_settings import LogSettings
from libs.core.observability.log import configure
from libs.core.process.process import settle_memory
from libs.core.store.client import Mongo
from services.bot_scheduler.cron import parse
from tests.support.fakes.fake_host import FakeHost, Start
from tests.support.rigs.schedule_rig import CUSTOM, ScheduleRig
from tools.stack.mongod import MongoServer

TARGET_P99_SECONDS = 0.050
_POLL_SECONDS = 5.0
_SCAN_SECONDS = 5.0
_TOGETHER = "*/20 * * * * *"
_SETTLE_SECONDS = 2.0


@dataclass(frozen=True)
class Lateness:
    """The firings of one load: their number, the expected number, and their lateness in seconds."""

    firings: int
    expected: int
    p50: float
    p99: float
    worst: float

    @property
    def good(self) -> bool:
        """Whether none was lost and the design's target is met."""
        return self.firings == self.expected and self.p99 <= TARGET_P99_SECONDS


async def measure(uri: str, *, schedules: int, seconds: float, together: str | None = None) -> Lateness:
    """Own a segment with that many schedules for a while: all with the expression *together*, or spread out."""
    mongo = Mongo(uri)
    name = f"schedules_{uuid.uuid4().hex[:8]}"
    rig = ScheduleRig(mongo.database(name))
    await rig.prepare()
    expressions = await _deploy(rig, schedules, together)
    host = FakeHost(run_seconds=0.05)
    async with rig.owned_by(host, scan_seconds=_SCAN_SECONDS) as owner:
        while owner.scheduler.known < schedules:  # noqa: ASYNC110 - a benchmark may look now and then
            await asyncio.sleep(0.05)
        await asyncio.sleep(_SETTLE_SECONDS)
        begin = time.time()
        await asyncio.sleep(seconds)
        end = time.time()
        await asyncio.sleep(_SETTLE_SECONDS)
    await mongo.database(name).client.drop_database(name)
    await mongo.close()
    return _lateness(host.starts, expressions, begin, end)


async def measure_polling(uri: str, *, schedules: int, seconds: float) -> Lateness:
    """Measure the baseline: read every 5 s what is due, and set its next time."""
    mongo = Mongo(uri)
    name = f"polling_{uuid.uuid4().hex[:8]}"
    rig = ScheduleRig(mongo.database(name))
    await rig.prepare()
    expressions = await _deploy(rig, schedules)
    starts: list[Start] = []
    begin = time.time()
    end = begin + seconds
    while time.time() < end + _POLL_SECONDS:
        now = time.time()
        async for document in rig.collection.find({"next_execution_time": {"$lte": now}}):
            following = parse(document["config"]["schedule"]).next_after(now)
            await rig.collection.update_one({"_id": document["_id"]}, {"$set": {"next_execution_time": following}})
            starts.append(Start(document["id"], "", time.time()))
        await asyncio.sleep(max(0.0, now + _POLL_SECONDS - time.time()))
    await mongo.database(name).client.drop_database(name)
    await mongo.close()
    return _lateness(starts, expressions, begin, end)


async def _deploy(rig: ScheduleRig, number: int, together: str | None = None) -> dict[str, str]:
    expressions = {f"s{i:05}": together or f"{i % 60} * * * * *" for i in range(number)}
    now = time.time()
    await rig.collection.insert_many(
        [
            {
                "id": schedule_id,
                "segment_id": rig.segment_id,
                "revision": 1,
                "config": {"schedule": expression},
                "custom": CUSTOM,
                "next_execution_time": parse(expression).next_after(now),
            }
            for schedule_id, expression in expressions.items()
        ]
    )
    return expressions


def _lateness(starts: list[Start], expressions: dict[str, str], begin: float, end: float) -> Lateness:
    """Match the starts with the times of the expressions; a time without a start within its minute is lost."""
    asked: dict[str, list[float]] = {}
    for start in starts:
        asked.setdefault(start.entity_id, []).append(start.at)
    late: list[float] = []
    expected = 0
    for schedule_id, expression in expressions.items():
        schedule = parse(expression)
        due = schedule.next_after(begin)
        while due <= end:
            expected += 1
            following = schedule.next_after(due)
            late += [at - due for at in asked.get(schedule_id, []) if due <= at < following][:1]
            due = following
    late.sort()
    if not late:
        return Lateness(0, expected, float("inf"), float("inf"), float("inf"))
    return Lateness(len(late), expected, late[len(late) // 2], late[int(len(late) * 0.99)], late[-1])


async def run(schedules: int, seconds: float) -> dict[str, Lateness]:
    """Measure all loads, one after the other, on a MongoDB of this run."""
    with tempfile.TemporaryDirectory() as directory:
        async with MongoServer.start(Path(directory) / "mongod") as server:
            return {
                "spread": await measure(server.uri, schedules=schedules, seconds=seconds),
                "together": await measure(server.uri, schedules=schedules, seconds=seconds, together=_TOGETHER),
                "polling every 5 s": await measure_polling(server.uri, schedules=schedules, seconds=seconds),
            }


def main() -> int:
    """Run the command; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    configure(LogSettings(format="json", level="error"), service="benchmark", role="benchmark", worker="-")
    settle_memory()  # as every process of ours does when it has started
    figures = asyncio.run(run(options.schedules, options.seconds))
    good = figures["spread"].good and figures["together"].good
    if options.output == "json":
        print(json.dumps({name: asdict(lateness) for name, lateness in figures.items()}))
    else:
        for name, lateness in figures.items():
            milliseconds = " ".join(
                f"{label} {getattr(lateness, label) * 1000:8.1f} ms" for label in ("p50", "p99", "worst")
            )
            print(f"{name:18} {milliseconds}   {lateness.firings} of {lateness.expected} firings")
        print(f"{'target':18} p99 <= {TARGET_P99_SECONDS * 1000:.0f} ms and none lost: {'met' if good else 'MISSED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
