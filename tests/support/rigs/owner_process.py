"""A worker's segment owner in a separate process, to be frozen or killed by a test; it prints its handler's calls.

    python -m tests.support.rigs.owner_process URI DATABASE SEGMENT WORKER_ID

Each line is a JSON object: `what` (run, tick, renewed, stop), `proven` (whether the lease was proven at that moment),
`at` (time.monotonic(), the same clock in all processes), `epoch`, and `until`, the end of the proof by that clock.
"""

import asyncio
import contextlib
import json
import logging
import sys
import time

import structlog

from libs.core.leases.lease import Holder, Lease
from libs.core.leases.lease_keeper import LeaseTiming
from libs.core.room import Demand
from libs.core.store.client import Mongo
from libs.core.store.leases import LeaseStore
from libs.core.worker.handler import OwnedSegment
from libs.core.worker.segment_owner import WorkerSuperseded
from libs.core.worker.segment_owners import SegmentOwners

LIFE_SECONDS = 3.0


class PrintingHandler:
    """Prints its calls; see SegmentHandler."""

    async def run(self, owned: OwnedSegment) -> None:
        """See SegmentHandler."""
        _print("run", owned.lease, owned.proven())
        while True:
            await asyncio.sleep(0.05)
            _print("tick", owned.lease, owned.proven())

    async def renewed(self, lease: Lease) -> None:
        """See SegmentHandler."""
        _print("renewed", lease, lease.proven_until > time.monotonic())

    async def stop_all(self, owned: OwnedSegment, grace_seconds: float) -> None:
        """See SegmentHandler."""
        _print("stop", owned.lease, owned.proven(0.0))

    async def expire(self, owned: OwnedSegment) -> None:
        """See SegmentHandler."""

    async def promise_ends(self, owned: OwnedSegment, grace_seconds: float) -> float | None:
        """See SegmentHandler."""

    def leave(self, owned: OwnedSegment) -> None:
        """See SegmentHandler."""
        _print("left", owned.lease, owned.proven(0.0))

    def demand(self, segment_id: int) -> Demand:
        """See SegmentHandler."""
        return Demand()

    def running(self) -> int:
        """See SegmentHandler."""
        return 1


def _print(what: str, lease: Lease | None, proven: bool) -> None:
    epoch, until = (lease.epoch, lease.proven_until) if lease is not None else (0, 0.0)
    line = {"what": what, "epoch": epoch, "until": until, "proven": proven, "at": time.monotonic()}
    print(json.dumps(line), flush=True)


async def own(uri: str, database: str, segment_id: int, worker_id: str) -> None:
    """Own the segment until the process is killed or superseded."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    mongo = Mongo(uri)
    leases = LeaseStore(mongo.database(database), LIFE_SECONDS)
    now = time.time_ns()
    holder = Holder(worker_id, f"{worker_id}-{now}", "this-host", now // 1_000_000)
    owner = SegmentOwners(leases, PrintingHandler(), holder, LeaseTiming.of(LIFE_SECONDS, 0.3))
    owner.want([segment_id])
    with contextlib.suppress(WorkerSuperseded):
        await owner.run()
    _print("superseded", None, False)
    await mongo.close()


if __name__ == "__main__":
    asyncio.run(own(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
