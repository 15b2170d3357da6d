"""Room on an engine and what entities need of it, as values: memory and processors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Need:
    """What one entity, or all entities of a segment, may use by their limits.

    *cpus* counts only entities that have a limit of processors; the others share what is left by weight.
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
        """Return what was stored; None for what is no need."""
        if not isinstance(document, Mapping):
            return None
        memory_bytes, cpus = document.get("memory_bytes"), document.get("cpus")
        if not isinstance(memory_bytes, int | float) or not isinstance(cpus, int | float):
            return None
        return cls(int(memory_bytes), float(cpus)) if abs(memory_bytes) < 2**63 else None

    @property
    def size(self) -> tuple[int, float]:
        """What needs are compared by: memory first, since processors can be shared."""
        return self.memory_bytes, self.cpus

    def __mul__(self, number: int) -> "Need":
        return Need(self.memory_bytes * number, self.cpus * number)


@dataclass(frozen=True, slots=True)
class Room:
    """What an engine has in all and what is not reserved by the limits of its containers.

    Both are after overcommitment. *free* is negative where limits exceed the room, as after the setting was lowered.
    *entity* is what an entity without limits of its own needs, for estimates about segments that nobody owns yet.
    """

    total: Need
    free: Need
    entity: Need

    def fits(self, need: Need) -> bool:
        """Return whether *need* fits into what is free."""
        return need.memory_bytes <= self.free.memory_bytes and need.cpus <= max(0.0, self.free.cpus) + 1e-9

    def less(self, need: Need) -> "Room":
        """Return the room that is left after *need* was taken."""
        return replace(self, free=self.free - need)


@dataclass(frozen=True, slots=True)
class Demand:
    """What the entities of one owned segment need of their engine.

    *need* is the sum over all entities that should run now, started or not. *lacking* is what the most demanding of
    those needs that wait for room; None when none waits.
    """

    need: Need = Need()
    lacking: Need | None = None

    @classmethod
    def of(cls, needs: Iterable[Need], waiting: Iterable[Need]) -> "Demand":
        """Return the demand of entities with these *needs*, of which some are *waiting* for room."""
        return cls(sum(needs, Need()), max(waiting, key=lambda need: need.size, default=None))


def least_by_host(reports: Iterable[tuple[str, Room | None]]) -> dict[str, Room]:
    """Return what each engine has left, by host: the least of what its workers report, as reports have an age."""
    least: dict[str, Room] = {}
    for host, room in reports:
        if room is not None and (host not in least or room.free.memory_bytes < least[host].free.memory_bytes):
            least[host] = room
    return least


_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Missing:
    """What *need* lacks on the worker that has the most room for it. *free* is what that worker's engine has left."""

    need: Need
    worker_id: str
    free: Need

    @property
    def memory_bytes(self) -> int:
        """How much memory is missing; 0 when there is enough."""
        return max(0, self.need.memory_bytes - max(0, self.free.memory_bytes))

    @property
    def cpus(self) -> float:
        """How many processors are missing; 0 when there are enough, or none are needed."""
        missing = self.need.cpus - max(0.0, self.free.cpus)
        return missing if missing > 1e-9 else 0.0

    def __str__(self) -> str:
        """Return it as "needs 512 MiB, the roomiest worker has 130 MiB (worker-1)"."""
        parts = []
        if self.memory_bytes or not self.cpus:
            has = max(0, self.free.memory_bytes) // _MIB
            parts.append(f"needs {-(-self.need.memory_bytes // _MIB)} MiB, the roomiest worker has {has} MiB")
        if self.cpus:
            parts.append(f"needs {self.need.cpus:g} CPUs, the roomiest worker has {max(0.0, self.free.cpus):g}")
        return f"{' and '.join(parts)} ({self.worker_id})"


def missing(need: Need, rooms: Mapping[str, Room]) -> Missing | None:
    """Return what *need* lacks across workers, whose *rooms* are by worker; None when no room is known."""
    lacks = [Missing(need, worker_id, room.free) for worker_id, room in sorted(rooms.items())]
    return min(
        lacks,
        key=lambda one: (one.memory_bytes, one.cpus, -one.free.memory_bytes, -one.free.cpus),
        default=None,
    )
