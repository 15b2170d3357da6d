"""The leading master's view of its workers, and the number of workers that follows from it. Pure."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from libs.core.placement import Labels
from libs.core.room import Need, Room


@dataclass(frozen=True)
class WorkerLoad:
    """One live worker.

    Attributes:
        host: its engine.
        needs: the need of each owned segment.
        lacking: segments in which an entity waits for room.
        room: the free room of the engine; None while unknown.
    """

    host: str = ""
    needs: Mapping[int, Need] = field(default_factory=dict)
    lacking: frozenset[int] = frozenset()
    room: Room | None = None


@dataclass(frozen=True)
class Placed:
    """Segments and entities that require the same labels of their worker; they are part of the fleet's numbers."""

    segments: int
    unowned_entities: int = 0


@dataclass(frozen=True)
class FleetSnapshot:
    """The leading master's view of its fleet at one time.

    Attributes:
        segments_with_entities: segments that need a worker, owned or not.
        owners: ids of the workers with a live lease or an assignment. In a cluster they are pod names.
        workers: the live workers, by id.
        unowned_entities: number of entities in segments without a live owner.
        set_aside: live workers that an operator cordoned.
        placed: those of the segments and unowned entities that require labels, by the labels.
        labels: the labels of each live worker.
    """

    segments_with_entities: int
    owners: frozenset[str]
    workers: Mapping[str, WorkerLoad] = field(default_factory=dict)
    unowned_entities: int = 0
    set_aside: int = 0
    placed: Mapping[Labels, Placed] = field(default_factory=dict)
    labels: Mapping[str, Labels] = field(default_factory=dict)

    def only_for(self, replicas: Collection[Labels]) -> "FleetSnapshot":
        """Return the fleet without the segments that no replica can own, because none has all of their labels.

        Args:
            replicas: the labels of the workers that are scaled.
        """
        others = [placed for wanted, placed in self.placed.items() if not any(wanted <= has for has in replicas)]
        return replace(
            self,
            segments_with_entities=self.segments_with_entities - sum(placed.segments for placed in others),
            unowned_entities=self.unowned_entities - sum(placed.unowned_entities for placed in others),
        )


@dataclass(frozen=True)
class NodeLoss:
    """Return how many segments would wait after the loss of *node*."""

    node: str
    segments: int


def workers_for_segments(fleet: FleetSnapshot, segments_per_worker: int) -> int:
    """Return how many workers the segments need, by their number and by the room of their entities."""
    by_number = math.ceil(fleet.segments_with_entities / segments_per_worker)
    return max(by_number, _workers_for_room(fleet))


def owners_on_fullest_node(fleet: FleetSnapshot, nodes: Mapping[str, str]) -> int:
    """Return how many live workers own a segment on the node with most of them; *nodes* is by worker."""
    owners = Counter(nodes[worker] for worker, load in fleet.workers.items() if load.needs and worker in nodes)
    return max(owners.values(), default=0)


def node_loss(fleet: FleetSnapshot, nodes: Mapping[str, str]) -> NodeLoss | None:
    """Return the node whose loss would leave most segments waiting; None when no loss would leave any."""
    losses = [NodeLoss(node, _left_waiting(fleet, nodes, node)) for node in sorted(set(nodes.values()))]
    worst = max(losses, key=lambda loss: loss.segments, default=None)
    return worst if worst is not None and worst.segments else None


def _workers_for_room(fleet: FleetSnapshot) -> int:
    rooms = {load.host: load.room for load in fleet.workers.values() if load.room is not None}
    if not rooms:
        return 0
    engine = _mean([room.total for room in rooms.values()])
    entity = next(iter(rooms.values())).entity
    need = sum((need for load in fleet.workers.values() for need in load.needs.values()), Need())
    need = need + entity * fleet.unowned_entities
    engines = max(_ratio(need.memory_bytes, engine.memory_bytes), _ratio(need.cpus, engine.cpus))
    if not _waits_for_another_engine(fleet, engine):
        return math.ceil(engines)
    owning = sum(bool(load.needs) for load in fleet.workers.values())
    return max(math.ceil(engines), owning + 1)


def _waits_for_another_engine(fleet: FleetSnapshot, engine: Need) -> bool:
    """Return whether a segment with a waiting entity fits on an empty engine, but on none of the current ones."""
    lacking = [
        (load.host, load.needs[one]) for load in fleet.workers.values() for one in load.lacking & set(load.needs)
    ]
    return any(
        _fits(need, engine)
        and not any(
            other.room is not None and other.host != host and other.room.fits(need) for other in fleet.workers.values()
        )
        for host, need in lacking
    )


def _left_waiting(fleet: FleetSnapshot, nodes: Mapping[str, str], lost: str) -> int:
    """Return how many segments of the node *lost* find no engine with room elsewhere, placing the largest first."""
    free: dict[str, Room | None] = {}
    homeless: list[Need] = []
    spare: dict[str, int] = defaultdict(int)
    for worker, load in fleet.workers.items():
        if nodes.get(worker) == lost:
            homeless += load.needs.values()
        elif load.room is not None:
            free[load.host] = load.room
        elif not load.needs:
            # Without a report an idle worker counts as capacity for one segment.
            spare[load.host] = 1
    waiting = 0
    for need in sorted(homeless, key=lambda need: need.size, reverse=True):
        host = next((host for host, room in free.items() if room is not None and room.fits(need)), None)
        if host is not None:
            room = free[host]
            free[host] = room.less(need) if room is not None else None
        elif spare:
            spare.popitem()
        else:
            waiting += 1
    return waiting


def _mean(needs: list[Need]) -> Need:
    total = sum(needs, Need())
    return Need(total.memory_bytes // len(needs), total.cpus / len(needs))


def _ratio(need: float, has: float) -> float:
    return need / has if has > 0 else 0.0


def _fits(need: Need, engine: Need) -> bool:
    return need.memory_bytes <= engine.memory_bytes and need.cpus <= engine.cpus
