"""The entities that wait for room, and how much is missing across workers."""

from collections.abc import Collection
from dataclasses import dataclass

from libs.core.master.registry import Worker
from libs.core.master.status import MasterSnapshot, WorkerRole
from libs.core.room import Missing, Room, least_by_host, missing


@dataclass(frozen=True)
class RoomReport:
    """The entities that wait for room.

    Attributes:
        segments: number of segments with a waiting entity.
        missing: the shortage of the largest one; None when none waits, or no engine's room is known.
    """

    segments: int = 0
    missing: Missing | None = None

    def __str__(self) -> str:
        """Return it as text; empty when nothing waits."""
        if not self.segments:
            return ""
        where = f"entities in {self.segments} segment{'s' if self.segments > 1 else ''} wait for room"
        return f"{where}: the largest {self.missing}" if self.missing is not None else where


def room_report(workers: Collection[Worker]) -> RoomReport:
    """Return what waits for room on *workers*."""
    needs = [held.demand.lacking for worker in workers for held in worker.state.held if held.demand.lacking is not None]
    if not needs:
        return RoomReport()
    return RoomReport(len(needs), missing(max(needs, key=lambda need: need.size), usable_rooms(workers)))


def usable_rooms(workers: Collection[Worker]) -> dict[str, Room]:
    """Return the room of the workers that an entity without room may come to run on, by worker."""
    least = least_by_host((worker.identity.host, worker.state.room) for worker in workers)
    return {
        worker.identity.worker_id: least[worker.identity.host]
        for worker in workers
        if worker.identity.host in least
        and not (worker.state.draining or worker.state.engine_lost or worker.state.impediment)
        and (worker.cordon is None or any(held.demand.lacking is not None for held in worker.state.held))
    }


def rooms_of(known: MasterSnapshot) -> dict[str, Room]:
    """Return the same of a snapshot."""
    least = least_by_host((worker.host, worker.room) for worker in known.workers)
    return {
        worker.worker_id: least[worker.host]
        for worker in known.workers
        if worker.host in least
        and not (worker.role == WorkerRole.DRAINING or worker.engine_lost or worker.impediment)
        and (not worker.cordoned or any(demand.lacking is not None for demand in worker.demands.values()))
    }
