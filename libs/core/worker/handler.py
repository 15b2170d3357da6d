"""The interface that a service implements to process a segment, and its arguments."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from libs.core.aio.wake import Wake
from libs.core.leases.boot_clock import boot_seconds
from libs.core.leases.lease import Lease
from libs.core.observability.tracing import Headers
from libs.core.room import Demand


@dataclass(eq=False)
class OwnedSegment:
    """A segment that this process owns now. *lease* is the latest one; a new ownership is a new object.

    Cancellation can be late (the process was frozen, the event loop blocked): call proven() immediately before
    starting or stopping a container.
    """

    lease: Lease
    wake: Wake = field(default_factory=Wake)
    """Set it when the segment changed, so that the handler starts a round at once."""
    clock: Callable[[], float] = boot_seconds
    trace: Headers = field(default_factory=dict)
    """The trace of the acquisition, to link to."""
    is_handed_over: bool = False
    """Whether another worker of the engine is about to continue the containers: cancellation must not end them."""

    @property
    def segment_id(self) -> int:
        """The number of the segment."""
        return self.lease.segment_id

    @property
    def epoch(self) -> int:
        """The fencing token of this ownership: higher than that of all earlier owners."""
        return self.lease.epoch

    def proven_seconds(self) -> float:
        """Return the seconds for which it is certain that no other worker owns the segment; negative when it is not."""
        return self.lease.proven_until - self.clock()

    def proven(self, margin_seconds: float = 0.5) -> bool:
        """Whether it is certain that no other worker owns the segment, now and for *margin_seconds* from now."""
        return self.proven_seconds() > margin_seconds


class SegmentHandler(Protocol):
    """The work of the segments that a worker owns. All of it runs on the event loop; each call may be repeated.

    Calls about different segments run concurrently and are independent.
    """

    async def run(self, owned: OwnedSegment) -> None:
        """Make this host match the segment until cancelled; never return before.

        Cancellation means only: start nothing more. Containers stay as they are; stop_all() ends them, and a newer
        process that took the segment over keeps them. After an exception run() is called again with backoff.
        """

    async def renewed(self, lease: Lease) -> None:
        """Refresh the keepalive of the segment: the lease was acquired or renewed, and is proven now.

        Called before run() for the first time. An exception means that the containers do not see the renewal, so
        it does not count.
        """

    async def expire(self, owned: OwnedSegment) -> None:
        """Expire the keepalive of the segment now, so that its containers end by themselves."""

    async def stop_all(self, owned: OwnedSegment, grace_seconds: float) -> None:
        """Stop all containers of the segment on this host concurrently, and return when none of them runs.

        Called after run() was cancelled, whether or not the lease is still proven, until it returns without an
        exception; raise if a stop failed. Containers with an epoch above ``owned.epoch`` belong to a later
        owner and stay. *grace_seconds* (0 to 30) is the time from SIGTERM to SIGKILL.
        """

    async def promise_ends(self, owned: OwnedSegment, grace_seconds: float) -> float | None:
        """Set a last deadline for the segment's containers, so that the lease may go to another owner meanwhile.

        Called after run() has ended, while the lease is proven. After it, stop_all() stops them although the lease is
        gone. It is recorded where later owners see it, and nothing extends it.

        Returns:
            How long it takes at most, *grace_seconds* and a little more. None: they have to end before the lease.
        """

    def leave(self, owned: OwnedSegment) -> None:
        """Release what this process has of the segment, at once: another worker of the engine owns it now.

        Called after run() was cancelled. The containers, their keepalive and their records belong to that worker.
        """

    def running(self) -> int:
        """Return how many containers run now; fast."""

    def demand(self, segment_id: int) -> Demand:
        """Return what the entities of an owned segment need of the engine; fast."""
