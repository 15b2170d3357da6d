"""Measure one master on one core: heartbeats of 10,000 workers, and the first assignment of 10,000 segments.

    python -m tests.benchmarks.coordination [--workers N] [--seconds N] [--output json]

Real gRPC over loopback, a real MongoDB, the master a process of its own pinned to one core. Heartbeats are measured as
the share of that core which the master uses, and as a ratio to a gRPC server that reads the same messages and does
nothing. The exit code is 1 when a target of the design is missed.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from libs.core.coordination import HeldSegment, WorkerIdentity, WorkerState
from libs.core.leases.lease import SegmentView
from libs.core.master.assignment import decide
from libs.core.master.registry import Registry, SessionId
from libs.core.store.client import Mongo
from proto.runtime.v1 import coordination_pb2 as pb
from proto.runtime.v1 import coordination_pb2_grpc as pb_grpc
from tests.benchmarks import coordination_server
from tests.support.eventually import eventually
from tools.stack.mongod import MongoServer

HEARTBEAT_SECONDS = 2.0
ASSIGN_TARGET_SECONDS = 2.0
STREAMS_PER_CONNECTION = 500
JOINING_AT_ONCE = 200
BEATERS = 16


class Server:
    """The measured process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    @classmethod
    async def start(cls, *arguments: str) -> "Server":
        """Start it and wait until it listens."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", coordination_server.__name__, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        return cls(process, json.loads(await process.stdout.readline())["port"])

    def send(self, command: str) -> None:
        """Send it a command that is not answered."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())

    async def report(self) -> dict[str, Any]:
        """Return its CPU seconds so far, and its state."""
        assert self._process.stdout is not None
        self.send("report")
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def kill(self) -> None:
        """End it like kill -9."""
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


class Crowd:
    """Streams of many workers from this process. They acquire what is assigned to them at once."""

    def __init__(self, port: int, size: int) -> None:
        self._target = f"127.0.0.1:{port}"
        self._size = size
        self._channels: list[grpc.aio.Channel] = []
        self._calls: dict[int, Any] = {}
        self._beats = [pb.WorkerMessage(heartbeat=pb.WorkerState()) for _ in range(size)]
        self._joining = asyncio.Semaphore(JOINING_AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []
        self.assigned = 0
        self.sent = 0
        self.silent = False
        self.broken = 0
        """Streams that ended and were opened again."""

    async def join(self) -> None:
        """Open all streams and wait until each is registered; heartbeats are sent from then on."""
        for _ in range(0, self._size, STREAMS_PER_CONNECTION):
            options = [("grpc.use_local_subchannel_pool", 1)]
            self._channels.append(grpc.aio.insecure_channel(self._target, options=options))
        self._tasks = [asyncio.create_task(self._stay(number)) for number in range(self._size)]
        self._tasks += [asyncio.create_task(self._beat_for_ever(part)) for part in range(BEATERS)]
        await eventually(lambda: len(self._calls) == self._size, within_seconds=240)

    async def leave(self) -> None:
        """End all streams."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for channel in self._channels:
            await channel.close()

    async def _beat_for_ever(self, part: int) -> None:
        # A write waits for gRPC's own thread, so that sequential writes would be too few.
        numbers = range(part, self._size, BEATERS)
        begun = time.perf_counter()
        for turn in itertools.count():
            ahead = begun + turn * HEARTBEAT_SECONDS / len(numbers) - time.perf_counter()
            if ahead > 0.005 or self.silent:
                await asyncio.sleep(max(ahead, 0.005))
            number = numbers[turn % len(numbers)]
            if self.silent:
                continue
            if (call := self._calls.get(number)) is not None:
                with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                    await call.write(self._beats[number])
                    self.sent += 1

    async def _stay(self, number: int) -> None:
        channel = self._channels[number // STREAMS_PER_CONNECTION]
        register = pb.Register(worker_id=f"w{number}", instance_id=f"w{number}-1", host=f"h{number}")
        while True:
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                async with self._joining:
                    call = pb_grpc.CoordinationServiceStub(channel).Coordinate()  # type: ignore[no-untyped-call]
                    await call.write(pb.WorkerMessage(register=register))
                    await call.read()
                self._calls[number] = call
                while (message := await call.read()) is not grpc.aio.EOF:
                    self._receive(number, message)
            self._calls.pop(number, None)
            self.broken += 1

    def _receive(self, number: int, message: pb.MasterMessage) -> None:
        if message.WhichOneof("kind") == "assignment" and message.assignment.HasField("segment_id"):
            held = pb.HeldSegment(segment_id=message.assignment.segment_id, epoch=1)
            self.assigned += not self._beats[number].heartbeat.HasField("held")
            self._beats[number] = pb.WorkerMessage(heartbeat=pb.WorkerState(held=held))


async def heartbeat_cpu(server: Server, crowd: Crowd, seconds: float) -> tuple[float, float, dict[str, Any]]:
    """Return CPU seconds per second, CPU seconds per heartbeat, and the last report."""
    before, sent, begun = await server.report(), crowd.sent, time.perf_counter()
    await asyncio.sleep(seconds)
    after, beats, elapsed = await server.report(), crowd.sent - sent, time.perf_counter() - begun
    used = after["cpu_seconds"] - before["cpu_seconds"]
    return used / elapsed, used / beats, after | {"heartbeats_per_second": beats / elapsed}


async def measure(workers: int, seconds: float) -> dict[str, Any]:
    """Take all measurements."""
    bare = await Server.start("bare")
    crowd = Crowd(bare.port, workers)
    await crowd.join()
    _, bare_per_beat, _ = await heartbeat_cpu(bare, crowd, seconds)
    await crowd.leave()
    await bare.stop()

    with tempfile.TemporaryDirectory() as folder:
        async with MongoServer.start(Path(folder)) as mongod:
            mongo = Mongo(mongod.uri)
            partitions = mongo.database("benchmark")["partitions"]
            master = await Server.start("master", "--uri", mongod.uri, "--database", "benchmark")
            crowd = Crowd(master.port, workers)
            begun = time.perf_counter()
            await crowd.join()
            joined_seconds = time.perf_counter() - begun
            core_share, per_beat, report = await heartbeat_cpu(master, crowd, seconds)
            known = report["workers"]

            await partitions.insert_many([{"_id": number, "bot_count": 5} for number in range(workers)])
            # No heartbeats for these two seconds: otherwise the crowd's own core would be measured.
            crowd.silent = True
            before = await master.report()
            begun = time.perf_counter()
            master.send("changed")
            for seconds in (ASSIGN_TARGET_SECONDS, 60):
                with contextlib.suppress(AssertionError):  # a missed target is reported at the end
                    await eventually(lambda: crowd.assigned == workers, seconds, every_seconds=0.01)
                assigned_seconds = time.perf_counter() - begun
                crowd.silent = False  # or they would be taken for dead
            final = await master.report()
            broken = crowd.broken
            await crowd.leave()
            await master.stop()
            await mongo.close()
    return {
        "workers": workers,
        "workers_known_after_heartbeats": known,
        "streams_broken": broken,
        "heartbeats_per_second": round(report["heartbeats_per_second"]),
        "core_share": round(core_share, 3),
        "cpu_per_heartbeat_microseconds": round(per_beat * 1e6, 1),
        "cpu_per_heartbeat_to_bare_grpc": round(per_beat / bare_per_beat, 2),
        "joined_seconds": round(joined_seconds, 2),
        "assigned": crowd.assigned,
        "assigned_seconds": round(assigned_seconds, 2),
        "assigned_cpu_seconds": round(final["cpu_seconds"] - before["cpu_seconds"], 2),
        "worst_loop_lag_in_heartbeats_seconds": round(report["worst_lag_seconds"], 3),
        "worst_loop_lag_in_assignment_seconds": round(final["worst_lag_seconds"], 3),
        **pure(workers),
    }


def pure(workers: int) -> dict[str, float]:
    """Measure the decisions without gRPC and MongoDB, in this process."""
    registry = Registry(5.0)
    for number in range(workers):
        identity = WorkerIdentity(f"w{number}", f"w{number}-1", f"h{number}")
        registry.register(SessionId(number), identity, WorkerState(), 0.0)
    state = WorkerState(held=(HeldSegment(1, 1),))
    rounds = []
    for turn in range(5):
        begun = time.perf_counter()
        for number in range(workers):
            registry.heartbeat(SessionId(number), state, float(turn))
        rounds.append(time.perf_counter() - begun)
    registry = Registry(5.0)
    for number in range(workers):
        identity = WorkerIdentity(f"w{number}", f"w{number}-1", f"h{number}")
        registry.register(SessionId(number), identity, WorkerState(), 0.0)
    segments = [SegmentView(number, 5, None) for number in range(workers)]
    begun = time.perf_counter()
    registry.apply(decide(segments, registry.views()))
    return {
        "pure_heartbeat_microseconds": round(statistics.median(rounds) / workers * 1e6, 2),
        "pure_assignment_seconds": round(time.perf_counter() - begun, 3),
    }


def misses(result: dict[str, Any]) -> list[str]:
    """Return the missed targets, in words."""
    missed = []
    if result["core_share"] > 1 or result["workers_known_after_heartbeats"] < result["workers"]:
        missed.append("the heartbeats need more than one core, or workers were lost")
    if result["assigned"] < result["workers"] or result["assigned_seconds"] > ASSIGN_TARGET_SECONDS:
        missed.append(f"assigning took longer than {ASSIGN_TARGET_SECONDS:g} s")
    return missed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=10_000, help="workers, and segments (default 10000)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement (default 10)")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args(arguments)
    result = asyncio.run(measure(options.workers, options.seconds))
    missed = misses(result)
    if options.output == "json":
        print(json.dumps(result | {"missed": missed}))
    else:
        for name, value in result.items():
            print(f"{name.replace('_', ' '):42} {value}")
        print("all targets met" if not missed else "MISSED: " + "; ".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
