"""The interface that a service implements to process a segment, and its arguments."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from libs.core.aio.wake import Wake
from libs.core.leases.lease import Lease
from libs.core.observability.tracing import Headers
from libs.core.room import Demand


@dataclass(eq=False)
class OwnedSegment:
    """A segment that this process owns for now. *lease* is the latest one; a new ownership is a new object.

    Being cancelled can come late (the process was frozen, the event loop blocked): whoever is about to start or stop a
    container asks proven() immediately before.
    """

    lease: Lease
    wake: Wake = field(default_factory=Wake)
    """Set it when something about the segment has changed, so that the handler looks at once."""
    clock: Callable[[], float] = time.monotonic
    trace: Headers = field(default_factory=dict)
    """That of the acquisition, to link to."""

    @property
    def segment_id(self) -> int:
        """The number of the segment."""
        return self.lease.segment_id

    @property
    def epoch(self) -> int:
        """The fencing number of this ownership: higher than that of all earlier owners."""
        return self.lease.epoch

    def proven_seconds(self) -> float:
        """For how much longer it is certain that nobody else owns the segment; negative when it is not any more."""
        return self.lease.proven_until - self.clock()

    def proven(self, margin_seconds: float = 0.5) -> bool:
        """Whether it is certain that nobody else owns the segment, now and for *margin_seconds* from now."""
        return self.proven_seconds() > margin_seconds


class SegmentHandler(Protocol):
    """The work of the segments that a worker owns. All of it runs on the event loop; each call may be repeated.

    Calls about different segments run at the same time and know nothing of each other.
    """

    async def run(self, owned: OwnedSegment) -> None:
        """Make this host match the segment until cancelled; never return before.

        Being cancelled means only: begin nothing more. Containers stay as they are; stop_all() ends them, and a newer
        process that took the segment over keeps them. An exception is logged, and run() called again with backoff.
        """

    async def renewed(self, lease: Lease) -> None:
        """Refresh the keepalive of the segment: the lease was acquired or renewed, and is proven now.

        Called before run() for the first time. An exception means that the containers do not know of the renewal, so
        that it does not count.
        """

    async def expire(self, owned: OwnedSegment) -> None:
        """Let the keepalive of the segment run out now, so that its containers end by themselves."""

    async def stop_all(self, owned: OwnedSegment, grace_seconds: float) -> None:
        """Stop every container of the segment on this host, all at once, and return when none of them runs.

        Called after run() was cancelled, whether or not the lease is still proven, until it returns without an
        exception; a stop that failed is an exception. Containers with an epoch above ``owned.epoch`` belong to a later
        owner and stay. *grace_seconds* (0 to 30) is the time from SIGTERM to SIGKILL.
        """

    def running(self) -> int:
        """Return how many containers run now; quick."""

    def demand(self, segment_id: int) -> Demand:
        """Return what the entities of an owned segment need of the engine; quick."""
