"""The measured side of the coordination benchmark: a master, or a bare gRPC server, pinned to one core.

Prints a line of JSON at start (`port`), and one for each line on standard input: `report` returns its CPU seconds and
its state, `changed` makes the master decide.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from typing import Any

import grpc
import structlog

from libs.core.config.coordination_settings import CoordinationSettings
from libs.core.http.health import Readiness
from libs.core.leases.lease import Holder
from libs.core.leases.lease_keeper import LeaseTiming
from libs.core.master.master import Master
from libs.core.store.client import Mongo
from libs.core.store.cordons import CordonStore
from libs.core.store.leases import LeadershipStore, LeaseStore
from libs.core.store.processes import ProcessStore
from proto.runtime.v1 import coordination_pb2 as pb
from proto.runtime.v1 import coordination_pb2_grpc as pb_grpc
from tests.support.eventually import eventually

LEASE_SECONDS = 5.0
"""The life of a lease, and how long a silent worker stays registered."""
_RENEW_SECONDS = 2.0


class BareServer(pb_grpc.CoordinationServiceServicer):
    """Reads messages and does nothing with them, to measure gRPC alone."""

    def __init__(self) -> None:
        self.streams = 0

    async def Coordinate(self, request_iterator: Any, context: Any) -> None:  # noqa: N802 - the protocol's name
        """One stream."""
        self.streams += 1
        try:
            async for message in request_iterator:
                if message.WhichOneof("kind") == "register":
                    await context.write(pb.MasterMessage(registered=pb.Registered(master_id="bare")))
        finally:
            self.streams -= 1


async def serve_bare() -> None:
    """Run a bare server until standard input ends."""
    server = grpc.aio.server()
    bare = BareServer()
    pb_grpc.add_CoordinationServiceServicer_to_server(bare, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"port": port}), flush=True)
    async for _ in _commands():
        _answer(workers=bare.streams)
    await server.stop(0)


async def serve_master(
    uri: str, database_name: str, name: str = "master", lease_seconds: float = LEASE_SECONDS
) -> None:
    """Run a master until standard input ends; beside another one it stands by."""
    mongo = Mongo(uri)
    database = mongo.database(database_name)
    master = Master(
        segments=LeaseStore(database, lease_seconds),
        leadership=LeadershipStore(database, lease_seconds),
        cordons=CordonStore(database),
        processes=ProcessStore(database),
        holder=Holder(name, f"{name}-1", "host"),
        settings=CoordinationSettings(
            master_service="unused", grpc_port=0, max_segment=1_000_000, death_timeout_seconds=lease_seconds
        ),
        timing=LeaseTiming.of(lease_seconds, _RENEW_SECONDS),
        address="127.0.0.1:0",
        readiness=Readiness(),
    )
    running = asyncio.create_task(master.run())
    await eventually(lambda: master.is_ready)
    lag = asyncio.create_task(_watch_lag())
    print(json.dumps({"port": master.port}), flush=True)
    async for command in _commands():
        if command == "changed":
            master.changed()
            continue
        snapshot = master.snapshot()
        states = {state.value: count for state, count in snapshot.segment_counts().items()}
        _answer(workers=len(snapshot.workers), segments=states, worst_lag_seconds=_worst_lag(), leads=snapshot.leads)
    lag.cancel()
    running.cancel()
    await asyncio.wait([running, lag])
    await mongo.close()


_lags = [0.0]


async def _watch_lag() -> None:
    while True:
        due = time.perf_counter() + 0.01
        await asyncio.sleep(0.01)
        _lags.append(time.perf_counter() - due)


def _worst_lag() -> float:
    worst = max(_lags)
    _lags[:] = [0.0]
    return worst


async def _commands() -> Any:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().strip()


def _answer(**fields: object) -> None:
    print(json.dumps({"cpu_seconds": time.process_time(), **fields}), flush=True)


def main() -> None:
    """Run the command; see the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["master", "bare"])
    parser.add_argument("--uri", default="")
    parser.add_argument("--database", default="")
    parser.add_argument("--name", default="master")
    parser.add_argument("--lease", type=float, default=LEASE_SECONDS)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    if arguments.what == "bare":
        asyncio.run(serve_bare())
    else:
        asyncio.run(serve_master(arguments.uri, arguments.database, arguments.name, arguments.lease))


if __name__ == "__main__":
    main()
