"""Leases as values: holder, epoch, and proven duration."""

from dataclasses import dataclass, field
from enum import Enum

from libs.core.errors import Permanent, Retryable


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of a lease: a worker (or master) by name, its process, and the engine with its containers.

    *started_at_milliseconds* is the Unix time of the process's start: of two with the same name on the same host,
    the later one is valid. *boot_id* is that of the process's kernel: cloned machines may share an engine's id, but not
    a boot. Empty for a holder of an older version.
    """

    worker_id: str
    instance_id: str
    host: str
    started_at_milliseconds: int = 0
    boot_id: str = ""
    public_key: bytes = field(default=b"", compare=False)
    """The key to which the worker id belongs while the lease lives; empty without one."""

    def is_neighbour_of(self, other: "Holder") -> bool:
        """Whether both are processes on one kernel, and their containers are on one engine."""
        return self.host == other.host and bool(self.boot_id) and self.boot_id == other.boot_id


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as its holder knows it.

    *proven_until* is by this host's boot-time clock (boot_seconds()): the time at which the last successful request
    was sent plus the lease's life. The server's expiry is never earlier.
    """

    segment_id: int
    holder: Holder
    epoch: int
    proven_until: float


@dataclass(frozen=True, slots=True)
class LeaseView:
    """A live lease as read from the store; *remaining_seconds* by the server's clock at that time."""

    segment_id: int
    holder: Holder
    epoch: int
    remaining_seconds: float


@dataclass(frozen=True, slots=True)
class SegmentView:
    """A segment with its number of entities; *lease* is None without a holder.

    *placement* are the labels that its worker must have, as text (:mod:`libs.core.placement`).
    """

    segment_id: int
    bot_count: int
    lease: LeaseView | None
    placement: str = ""


@dataclass(frozen=True, slots=True)
class Leadership:
    """The proof of leadership; *proven_until* as in Lease."""

    holder: Holder
    epoch: int
    proven_until: float


class LeaseHeld(Retryable):
    """Another process holds it; it may be free after *remaining_seconds*, or earlier if it is released."""

    def __init__(self, name: str, by: Holder, remaining_seconds: float) -> None:
        super().__init__(f"{name} is held by {by.worker_id} for another {remaining_seconds:.1f} s")
        self.by = by
        self.remaining_seconds = remaining_seconds


class TakeoverTooEarly(Retryable):
    """Another holder's lease has expired by MongoDB's clock, which cannot be trusted for another *remaining_seconds*.

    The clock jumped, or this process has known it for less than a lease's life: the holder may still rely on its lease.
    """

    def __init__(self, name: str, remaining_seconds: float) -> None:
        super().__init__(
            f"{name} is not taken over for another {remaining_seconds:.1f} s, until MongoDB's clock has been steady "
            "for the life of a lease"
        )
        self.remaining_seconds = remaining_seconds


class Taken(Enum):
    """Whether another process on the same engine has taken over a lost lease, together with its containers.

    If so, the former holder must not touch the containers. The values are labels of a metric.
    """

    NO = "lost"
    BY_SAME_WORKER = "superseded"
    BY_NEIGHBOUR = "taken-over"


_HOW_LOST = {
    Taken.NO: "it expired or was taken over",
    Taken.BY_SAME_WORKER: "a newer process with the same worker id acquired it",
    Taken.BY_NEIGHBOUR: "another worker of this engine took it over with its containers",
}


class LeaseLost(Permanent):
    """This process no longer holds the lease."""

    def __init__(self, name: str, epoch: int, taken: Taken = Taken.NO) -> None:
        super().__init__(f"the lease of {name} (epoch {epoch}) is lost: {_HOW_LOST[taken]}")
        self.epoch = epoch
        self.taken = taken


class SegmentMissing(Permanent):
    """There is no such segment in the database."""

    def __init__(self, segment_id: int) -> None:
        super().__init__(f"segment {segment_id} does not exist")
        self.segment_id = segment_id
