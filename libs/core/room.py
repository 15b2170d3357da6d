"""Room on an engine and the needs of entities, as values: memory and processors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Need:
    """The resources that one entity, or all entities of a segment, may use by their limits.

    *cpus* counts only entities with a limit of processors; the others share the rest by weight.
    """

    memory_bytes: int = 0
    cpus: float = 0.0

    def __add__(self, other: "Need") -> "Need":
        return Need(self.memory_bytes + other.memory_bytes, self.cpus + other.cpus)

    def __sub__(self, other: "Need") -> "Need":
        return Need(self.memory_bytes - other.memory_bytes, self.cpus - other.cpus)

    def to_document(self) -> dict[str, float]:
        """Return it as it is stored."""
        return {"memory_bytes": self.memory_bytes, "cpus": self.cpus}

    @classmethod
    def from_document(cls, document: object) -> "Need | None":
        """Return the stored need; None when *document* is not one."""
        if not isinstance(document, Mapping):
            return None
        memory_bytes, cpus = document.get("memory_bytes"), document.get("cpus")
        if not isinstance(memory_bytes, int | float) or not isinstance(cpus, int | float):
            return None
        return cls(int(memory_bytes), float(cpus)) if abs(memory_bytes) < 2**63 else None

    @property
    def size(self) -> tuple[int, float]:
        """The sort key of needs: memory first, since processors can be shared."""
        return self.memory_bytes, self.cpus

    def __mul__(self, number: int) -> "Need":
        return Need(self.memory_bytes * number, self.cpus * number)


@dataclass(frozen=True, slots=True)
class Room:
    """The total room of an engine, and the part that is not reserved by the limits of its containers.

    Both are after overcommitment. *free* is negative when limits exceed the room, for instance after the setting was
    lowered. *entity* is the need of an entity without limits of its own, for estimates about segments without an owner.
    """

    total: Need
    free: Need
    entity: Need

    def fits(self, need: Need) -> bool:
        """Return whether *need* fits into the free room."""
        return need.memory_bytes <= self.free.memory_bytes and need.cpus <= max(0.0, self.free.cpus) + 1e-9

    def less(self, need: Need) -> "Room":
        """Return the room that remains after *need* was reserved."""
        return replace(self, free=self.free - need)


@dataclass(frozen=True, slots=True)
class Demand:
    """The resources that the entities of one owned segment need of their engine.

    *need* is the sum over all entities that should run now, started or not. *lacking* is the largest of the needs that
    wait for room; None when none waits.
    """

    need: Need = Need()
    lacking: Need | None = None

    @classmethod
    def of(cls, needs: Iterable[Need], waiting: Iterable[Need]) -> "Demand":
        """Return the demand of entities with these *needs*, of which some are *waiting* for room."""
        return cls(sum(needs, Need()), max(waiting, key=lambda need: need.size, default=None))


def least_by_host(reports: Iterable[tuple[str, Room | None]]) -> dict[str, Room]:
    """Return the free room of each engine, by host: the minimum of its workers' reports, which may be old."""
    least: dict[str, Room] = {}
    for host, room in reports:
        if room is not None and (host not in least or room.free.memory_bytes < least[host].free.memory_bytes):
            least[host] = room
    return least


@dataclass(frozen=True, slots=True)
class Missing:
    """The missing part of *need* on the worker with the most room for it, whose engine has *free*."""

    need: Need
    worker_id: str
    free: Need

    @property
    def memory_bytes(self) -> int:
        """The missing memory; 0 when there is enough."""
        return max(0, self.need.memory_bytes - max(0, self.free.memory_bytes))

    @property
    def cpus(self) -> float:
        """The missing processors; 0 when there are enough, or none are needed."""
        missing = self.need.cpus - max(0.0, self.free.cpus)
        return missing if missing > 1e-9 else 0.0

    def __str__(self) -> str:
        """Return a text such as "needs 512 MiB, the roomiest worker has 130 MiB (worker-1)"."""
        parts = []
        if self.memory_bytes or not self.cpus:
            has = max(0, self.free.memory_bytes) // MIB
            parts.append(f"needs {-(-self.need.memory_bytes // MIB)} MiB, the roomiest worker has {has} MiB")
        if self.cpus:
            parts.append(f"needs {self.need.cpus:g} CPUs, the roomiest worker has {max(0.0, self.free.cpus):g}")
        return f"{' and '.join(parts)} ({self.worker_id})"


def missing(need: Need, rooms: Mapping[str, Room]) -> Missing | None:
    """Return the shortage of *need* across workers, whose *rooms* are by worker; None when no room is known."""
    lacks = [Missing(need, worker_id, room.free) for worker_id, room in sorted(rooms.items())]
    return min(
        lacks,
        key=lambda one: (one.memory_bytes, one.cpus, -one.free.memory_bytes, -one.free.cpus),
        default=None,
    )
