"""Room on an engine and what entities need of it, as values: memory and processors."""

from collections.abc import Iterable
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

    def holds(self, need: Need) -> bool:
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
