"""Simulated workers: real streams to real masters and leases in a real MongoDB, but no containers.

All of them live in one process. Their leases have the documents of real ones; they are acquired and renewed in bulk,
since the requests of thousands of processes would measure the processor of this one.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Sequence
from typing import Any

import grpc
from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from libs.core.aio.backoff import Backoff
from libs.core.coordination import (
    HeldSegment,
    WorkerIdentity,
    WorkerState,
    assignment_from_wire,
    register_to_wire,
    state_to_wire,
)
from libs.core.store.client import Database
from proto.runtime.v1 import coordination_pb2 as pb
from proto.runtime.v1 import coordination_pb2_grpc as pb_grpc

HEARTBEAT_SECONDS = 2.0
RENEW_SECONDS = 2.0
_STREAMS_PER_CONNECTION = 500
_BEATERS = 16
_WRITE_SECONDS = 0.05
_JOINING_AT_ONCE = 200


class Fleet:
    """Workers ``w0`` to ``w<size - 1>``, each on its own host, which try the masters at *ports* in turn.

    Attributes:
        held: the segments of each worker that holds any.
        moved: acquisitions of segments that another worker had held.
        broken: streams that ended.
    """

    def __init__(self, database: Database, ports: Sequence[int], size: int, lease_seconds: float) -> None:
        self.size = size
        self._lease_seconds = lease_seconds
        self.held: dict[int, set[int]] = {}
        self.moved = 0
        self.broken = 0
        self._database = database
        self._targets = [f"127.0.0.1:{port}" for port in ports]
        self._channels: dict[tuple[int, int], grpc.aio.Channel] = {}
        self._calls: dict[int, Any] = {}
        self._beats = [pb.WorkerMessage(heartbeat=pb.WorkerState()) for _ in range(size)]
        self._members: dict[int, asyncio.Task[None]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._acquired: dict[int, int] = {}
        self._owner: dict[int, int] = {}
        self._joining = asyncio.Semaphore(_JOINING_AT_ONCE)
        self._joined: set[int] = set()

    @property
    def registered(self) -> int:
        """How many workers a master has accepted."""
        return len(self._calls)

    @property
    def owned(self) -> int:
        """How many segments have an owner."""
        return len(self._owner)

    def join(self) -> None:
        """Start all workers; they go on by themselves."""
        self._members = {number: asyncio.create_task(self._stay(number)) for number in range(self.size)}
        self._loops = [asyncio.create_task(self._beat_for_ever(part)) for part in range(_BEATERS)]
        self._loops += [asyncio.create_task(self._acquire_for_ever()), asyncio.create_task(self._renew_for_ever())]

    async def lose(self, count: int) -> int:
        """End *count* workers, owners first, like a power failure; return how many segments they held."""
        lost = set[int]()
        for number in sorted(self._members, key=lambda member: not self.held.get(member))[:count]:
            self._members.pop(number).cancel()
            self._calls.pop(number, None)
            lost |= self.held.pop(number, set())
        for segment_id in lost:
            del self._owner[segment_id]
        return len(lost)

    async def cut(self) -> None:
        """Break every stream at once, as a failing network does."""
        for call in list(self._calls.values()):
            call.cancel()

    async def leave(self) -> None:
        """End all workers."""
        tasks = [*self._members.values(), *self._loops]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()

    async def _stay(self, number: int) -> None:
        identity = WorkerIdentity(f"w{number}", f"w{number}-1", f"h{number}", started_at_milliseconds=1)
        backoff = Backoff(initial_seconds=0.1, cap_seconds=2.0)  # as of a real worker's session
        # Workers are started one after another; only what breaks later breaks for all of them at once.
        await self._joining.acquire()
        for target in itertools.cycle(range(len(self._targets))):
            try:
                await self._serve(number, target, identity, backoff)
            except (grpc.RpcError, asyncio.InvalidStateError):
                pass  # the stream broke
            except asyncio.CancelledError:
                # Also how a stream ends that was cut here.
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
            if self._calls.pop(number, None) is not None:
                self.broken += 1
            await asyncio.sleep(backoff.next_seconds())

    async def _serve(self, number: int, target: int, identity: WorkerIdentity, backoff: Backoff) -> None:
        """Keep one stream open until it ends."""
        call = pb_grpc.CoordinationServiceStub(self._channel(target, number)).Coordinate()  # type: ignore[no-untyped-call]
        await call.write(pb.WorkerMessage(register=register_to_wire(identity, self._state(number))))
        while (message := await call.read()) is not grpc.aio.EOF:
            if message.WhichOneof("kind") == "registered":
                self._calls[number] = call
                backoff.reset()
                if number not in self._joined:
                    self._joined.add(number)
                    self._joining.release()
            elif message.WhichOneof("kind") == "assignment":
                await self._accept(number, call, message.assignment)

    def _channel(self, target: int, number: int) -> grpc.aio.Channel:
        key = (target, number // _STREAMS_PER_CONNECTION)
        if key not in self._channels:
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 2000)]
            self._channels[key] = grpc.aio.insecure_channel(self._targets[target], options=options)
        return self._channels[key]

    def _state(self, number: int) -> WorkerState:
        return WorkerState(held=tuple(HeldSegment(segment_id, 1) for segment_id in sorted(self.held.get(number, ()))))

    async def _accept(self, number: int, call: Any, message: pb.Assignment) -> None:
        """Acquire what is assigned, and report it at once, as a real worker does."""
        assigned = assignment_from_wire(message).segments
        held = self.held.setdefault(number, set())
        for segment_id in held - assigned:
            held.discard(segment_id)
            self._owner.pop(segment_id, None)
        for segment_id in assigned - held:
            if (former := self._owner.get(segment_id)) is not None:
                self.held[former].discard(segment_id)
                self.moved += 1
            held.add(segment_id)
            self._owner[segment_id] = self._acquired[segment_id] = number
        self._beats[number] = pb.WorkerMessage(heartbeat=state_to_wire(self._state(number)))
        await call.write(self._beats[number])

    async def _beat_for_ever(self, part: int) -> None:
        # A write waits for gRPC's own thread, so that sequential writes would be too few.
        numbers = range(part, self.size, _BEATERS)
        begun = time.perf_counter()
        for turn in itertools.count():
            ahead = begun + turn * HEARTBEAT_SECONDS / len(numbers) - time.perf_counter()
            await asyncio.sleep(max(ahead, 0.0))
            number = numbers[turn % len(numbers)]
            if (call := self._calls.get(number)) is not None:
                with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                    await call.write(self._beats[number])

    async def _acquire_for_ever(self) -> None:
        partitions = self._database["partitions"]
        while True:
            acquired, self._acquired = self._acquired, {}
            writes = [
                UpdateOne({"_id": segment_id}, [{"$set": {"lease": self._lease(number)}}])
                for segment_id, number in acquired.items()
            ]
            if writes:
                try:
                    await partitions.bulk_write(writes, ordered=False)
                except PyMongoError:
                    self._acquired = acquired | self._acquired  # on a busy machine
            await asyncio.sleep(_WRITE_SECONDS)

    async def _renew_for_ever(self) -> None:
        partitions = self._database["partitions"]
        while True:
            query = {"_id": {"$in": list(self._owner)}, "lease.worker_id": {"$ne": None}}
            with contextlib.suppress(PyMongoError):  # on a busy machine; the next one renews all
                await partitions.update_many(query, [{"$set": {"lease.expires_at": self._expiry()}}])
            await asyncio.sleep(RENEW_SECONDS)

    def _lease(self, number: int) -> dict[str, Any]:
        return {
            "worker_id": f"w{number}",
            "instance_id": f"w{number}-1",
            "host": f"h{number}",
            "started_at_milliseconds": 1,
            "boot_id": "",
            "epoch": 1,
            "expires_at": self._expiry(),
        }

    def _expiry(self) -> dict[str, Any]:
        return {"$add": ["$$NOW", round(self._lease_seconds * 1000)]}
