"""A large service without containers: masters on one core, a real MongoDB, and thousands of simulated workers.

    python -m tests.benchmarks.scale [--workers N] [--segments N] [--bots N] [--seconds N] [--lease N] [--output json]

Phases: all workers join and nothing is assigned yet; all segments appear at once; a steady load of heartbeats and
renewals; a tenth of the workers goes at once; every stream breaks at once; the leading master is killed. Each phase has
its duration, the processor time of master and MongoDB in it, and the longest time for which the master's loop was held
up. Then the queries that read everything, and one renewal of a lease as a worker sends it. The exit code is 1 when a
target of the design is missed.

On a busy machine give the leases more time (--lease 60): no process then loses its lease because it gets no processor
time. What waits for the end of a lease takes longer accordingly; processor times stay the same.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.core.leases.lease import Holder
from libs.core.store.client import Database, Mongo
from libs.core.store.entity_counts import EntityCounts
from libs.core.store.leases import LeaseStore
from tests.benchmarks.coordination import Server
from tests.benchmarks.coordination_server import LEASE_SECONDS
from tests.benchmarks.fleet import Fleet
from tests.benchmarks.process_usage import processor_seconds, resident_mb
from tests.support.eventually import eventually
from tools.stack.mongod import MongoServer

ASSIGN_TARGET_SECONDS = 2.0
_LONGEST_SECONDS = 600.0
_RENEWERS, _RENEWALS = 40, 25
_RENEWED_LEASE_SECONDS = 60.0
_BATCH = 10_000

Figures = dict[str, Any]


class Observer:
    """The processor time of the leading master and of MongoDB, by phase."""

    def __init__(self, mongod: MongoServer, master: Server) -> None:
        self.master = master
        self.figures: Figures = {}
        self._mongod_pid = mongod.identity.pid

    @asynccontextmanager
    async def phase(self, name: str) -> AsyncIterator[Figures]:
        """Measure the block as *name*; more figures of it may be added."""
        await self.master.report()  # what held its loop up before is not counted
        store, master, begun = processor_seconds(self._mongod_pid), processor_seconds(self.master.pid), time.monotonic()
        figures: Figures = {}
        yield figures
        figures["seconds"] = round(time.monotonic() - begun, 2)
        figures["master_cpu_seconds"] = round(processor_seconds(self.master.pid) - master, 2)
        figures["mongod_cpu_seconds"] = round(processor_seconds(self._mongod_pid) - store, 2)
        figures["worst_lag_seconds"] = round((await self.master.report())["worst_lag_seconds"], 3)
        self.figures[name] = figures

    def memory(self) -> Figures:
        """Resident megabytes now."""
        return {"master_mb": round(resident_mb(self.master.pid)), "mongod_mb": round(resident_mb(self._mongod_pid))}


@dataclass(frozen=True)
class Load:
    """What is simulated. *seconds* is the length of the steady load."""

    workers: int
    segments: int
    bots: int
    seconds: float
    lease_seconds: float


async def measure(load: Load) -> Figures:
    """Return all measurements, by phase."""
    with tempfile.TemporaryDirectory() as folder:
        async with MongoServer.start(Path(folder)) as mongod:
            mongo = Mongo(mongod.uri)
            database = mongo.database("bot_runner")
            arguments = ("master", "--uri", mongod.uri, "--database", "bot_runner", "--lease", str(load.lease_seconds))
            leader = await Server.start(*arguments, "--name", "m1")
            standby = await Server.start(*arguments, "--name", "m2")
            fleet = Fleet(database, [leader.port, standby.port], load.workers, load.lease_seconds)
            try:
                return await _phases(Observer(mongod, leader), fleet, standby, database, load)
            finally:
                await fleet.leave()
                for server in (leader, standby):
                    with contextlib.suppress(ProcessLookupError):
                        await server.kill()
                await mongo.close()


async def _phases(observer: Observer, fleet: Fleet, standby: Server, database: Database, load: Load) -> Figures:
    async with observer.phase("join"):
        fleet.join()
        await _until(lambda: fleet.registered == fleet.size)
    await _insert(database, load.segments, load.bots)

    async with observer.phase("assign from nothing"):
        observer.master.send("changed")
        await _until(lambda: fleet.owned == load.segments)

    async with observer.phase("steady") as figures:
        await asyncio.sleep(load.seconds)
    figures |= observer.memory()

    async with observer.phase("a tenth gone") as figures:
        figures["segments"] = await fleet.lose(fleet.size // 10)
        await _until(lambda: fleet.owned == load.segments)
        figures["moved_needlessly"] = fleet.moved
    remaining = fleet.size - fleet.size // 10

    async with observer.phase("every stream broken") as figures:
        before = fleet.broken
        await fleet.cut()
        await _until(lambda: fleet.broken - before >= remaining and fleet.registered == remaining)
        figures["moved_needlessly"] = fleet.moved

    observer.master, leader = standby, observer.master
    async with observer.phase("leader killed") as figures:
        before = fleet.broken
        await leader.kill()
        await _until(lambda: fleet.broken - before >= remaining and fleet.registered == remaining)
        await _until_surveyed(standby, load.segments)
        figures["moved_needlessly"] = fleet.moved
    observer.figures["after all"] = observer.memory()

    reads: Mapping[str, Callable[[], Awaitable[object]]] = {
        "survey of all segments": LeaseStore(database, load.lease_seconds, timeout_seconds=_LONGEST_SECONDS).survey,
        "states of all bots": EntityCounts(database, "bots").by_state,
    }
    for name, read in reads.items():
        async with observer.phase(name):
            await read()
    async with observer.phase("renewals") as figures:
        figures["number"] = await _renew(database)
    return observer.figures


async def _insert(database: Database, segments: int, bots: int) -> None:
    """Write the segments and their bots, which have a status as a worker leaves it."""
    status = {"state": "running", "worker_id": "w", "since": 0}
    per_segment = bots // segments
    documents = [
        {"id": f"b{number}", "segment_id": number // per_segment, "config": {}, "custom": {}, "status": status}
        for number in range(per_segment * segments)
    ]
    for begin in range(0, len(documents), _BATCH):
        await database["bots"].insert_many(documents[begin : begin + _BATCH], ordered=False)
    await database["bots"].create_index("segment_id")
    await database["partitions"].create_index("bot_count")
    await database["partitions"].insert_many(
        [{"_id": number, "bot_count": per_segment} for number in range(segments)], ordered=False
    )


async def _renew(database: Database) -> int:
    """Renew many leases at a time, each by a request as a worker sends it; return the number of renewals."""
    store = LeaseStore(database, _RENEWED_LEASE_SECONDS, timeout_seconds=_RENEWED_LEASE_SECONDS / 2)
    segments = [-1 - number for number in range(_RENEWERS)]
    await database["partitions"].insert_many([{"_id": segment_id, "bot_count": 0} for segment_id in segments])

    async def renew(segment_id: int) -> None:
        lease = await store.acquire(segment_id, Holder(f"r{segment_id}", f"r{segment_id}-1", "host"))
        for _ in range(_RENEWALS):
            lease = await store.renew(lease)

    await asyncio.gather(*(renew(segment_id) for segment_id in segments))
    return _RENEWERS * _RENEWALS


async def _until(condition: Callable[[], bool]) -> None:
    await eventually(condition, within_seconds=_LONGEST_SECONDS, every_seconds=0.02)


async def _until_surveyed(master: Server, segments: int) -> None:
    async def surveyed() -> bool:
        report = await master.report()
        return bool(report["leads"]) and sum(report["segments"].values()) == segments

    await eventually(surveyed, within_seconds=_LONGEST_SECONDS, every_seconds=0.2)


def misses(figures: Figures, seconds: float) -> list[str]:
    """The targets that were missed, in words. Processor time counts: what else runs here lengthens every wait."""
    missed = []
    if figures["assign from nothing"]["master_cpu_seconds"] > ASSIGN_TARGET_SECONDS:
        missed.append(f"the master needs more than {ASSIGN_TARGET_SECONDS:g} s to assign everything")
    if figures["steady"]["master_cpu_seconds"] > seconds:
        missed.append("the heartbeats need more than one core")
    moved = [name for name, phase in figures.items() if phase.get("moved_needlessly")]
    if moved:
        missed.append(f"segments with a live owner were moved: {', '.join(moved)}")
    return missed


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=10_000, help="(default 10000)")
    parser.add_argument("--segments", type=int, default=10_000, help="at least one for each worker (default 10000)")
    parser.add_argument("--bots", type=int, default=100_000, help="bots of all segments (default 100000)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the steady load (default 10)")
    parser.add_argument("--lease", type=float, default=LEASE_SECONDS, help="life of a lease in seconds (default 5)")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args(arguments)
    load = Load(options.workers, options.segments, options.bots, options.seconds, options.lease)
    figures = asyncio.run(measure(load))
    missed = misses(figures, options.seconds)
    if options.output == "json":
        print(json.dumps({"phases": figures, "missed": missed}))
    else:
        for name, phase in figures.items():
            print(f"{name:24} " + "  ".join(f"{what.replace('_', ' ')} {value}" for what, value in phase.items()))
        print("all targets met" if not missed else "MISSED: " + "; ".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
