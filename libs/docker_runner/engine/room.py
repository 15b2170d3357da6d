"""An engine's room by the limits of its containers: total, free, and for which priority. Pure.

Memory and processors count by the limits of containers, regardless of their usage. The operator's overcommitment
is the factor by which the sum of the limits may exceed the engine's memory and processors.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from types import MappingProxyType

from libs.core.room import MIB, Need, Room

_PLENTY = Need(2**50, 2.0**20)
_KEPT_FOR = ("", "bots", "bots and schedules")


class Priority(IntEnum):
    """Precedence for the room that is kept for failover: the value is how many reserves a start leaves free."""

    BOT = 0
    SCHEDULE = 1
    BACKTEST = 2


@dataclass(frozen=True)
class RoomRequest:
    """The need of one container.

    Attributes:
        name: the container's name; an existing container of that name is not counted against it.
    """

    name: str
    need: Need
    priority: Priority = Priority.BOT


@dataclass(frozen=True)
class RoomRules:
    """The operator's settings of an engine's room.

    Attributes:
        memory_bytes, cpus: the engine's capacity; None for the capacity that the engine reports.
        memory_overcommit, cpu_overcommit: factors by which the limits may exceed it.
        reserve: one reserve as a share of the total, from 0 to 0.5.
    """

    memory_bytes: int | None = None
    cpus: float | None = None
    memory_overcommit: float = 8.0
    cpu_overcommit: float = 16.0
    reserve: float = 0.1

    def total(self, engine: Need) -> Need:
        """Return the maximum sum of all limits; unlimited if the engine does not report its capacity."""
        memory_bytes = (
            self.memory_bytes if self.memory_bytes is not None else engine.memory_bytes or _PLENTY.memory_bytes
        )
        cpus = self.cpus if self.cpus is not None else engine.cpus or _PLENTY.cpus
        return Need(int(memory_bytes * self.memory_overcommit), cpus * self.cpu_overcommit)

    def one_reserve(self, total: Need, entity: Need) -> Need:
        """Return the size of one reserve: whole entities of the default size, so that a small engine has none."""
        memory_unit, cpu_unit = max(1, entity.memory_bytes), entity.cpus or 1.0
        return Need(
            int(total.memory_bytes * self.reserve) // memory_unit * memory_unit,
            math.floor(total.cpus * self.reserve / cpu_unit + 1e-9) * cpu_unit,
        )


@dataclass(frozen=True)
class Shortage:
    """Why a container cannot be created now.

    Attributes:
        free: unreserved room, failover reserves included; negative where limits exceed the room.
        kept: the part of it that is kept for others with a higher priority.
    """

    need: Need
    free: Need
    kept: Need
    priority: Priority = Priority.BOT

    @property
    def lacks_memory(self) -> bool:
        """Whether memory is missing."""
        return self.need.memory_bytes > self.free.memory_bytes - self.kept.memory_bytes

    @property
    def lacks_cpus(self) -> bool:
        """Whether processors are missing; a container without a limit of them needs none."""
        return self.need.cpus > max(0.0, self.free.cpus - self.kept.cpus) + 1e-9

    def __str__(self) -> str:
        """Return it as "needs 512 MiB, the engine has 130 MiB free"."""
        parts = []
        if self.lacks_memory:
            parts.append(self._said(_mib(self.need, up=True), _mib(self.free), _mib(self._kept_of_free)))
        if self.lacks_cpus:
            parts.append(self._said(_cpus(self.need), _cpus(self.free), _cpus(self._kept_of_free)))
        return " and ".join(parts)

    @property
    def _kept_of_free(self) -> Need:
        return Need(min(self.kept.memory_bytes, self.free.memory_bytes), min(self.kept.cpus, self.free.cpus))

    def _said(self, need: str, free: str, kept: str) -> str:
        reserved = f", {kept} of it kept for {_KEPT_FOR[self.priority]}" if not kept.startswith("0 ") else ""
        return f"needs {need}, the engine has {free} free{reserved}"


@dataclass(frozen=True)
class Reservations:
    """The reservations of one engine's containers, and the remaining room.

    Attributes:
        entity: the need of an entity without limits of its own.
        reserve: the size of one reserve.
        by_name: the limits of each created or running container.
        users: the users of all these containers, and of those that do not count any more but are not removed yet.
    """

    total: Need
    entity: Need
    reserve: Need
    by_name: Mapping[str, Need] = field(default_factory=lambda: MappingProxyType({}))
    users: frozenset[int] = frozenset()

    @cached_property
    def reserved(self) -> Need:
        """The sum of all reservations."""
        return sum(self.by_name.values(), Need())

    def free(self, without: str = "") -> Need:
        """The room that no container except *without* has reserved."""
        own = self.by_name.get(without, Need())
        return Need(
            self.total.memory_bytes - self.reserved.memory_bytes + own.memory_bytes,
            round(self.total.cpus - self.reserved.cpus + own.cpus, 6),
        )

    def kept(self, priority: Priority) -> Need:
        """The room that a start of *priority* leaves free."""
        return Need(self.reserve.memory_bytes * priority, self.reserve.cpus * priority)

    def shortage(self, request: RoomRequest) -> Shortage | None:
        """Return why *request* cannot be granted now, or None when it can.

        An engine without any container grants every request: one that is smaller than the limits of a single entity
        could otherwise run nothing. The kernel enforces the actual capacity. An existing container is always granted
        its current limits.
        """
        if not any(name != request.name for name in self.by_name):
            return None
        own = self.by_name.get(request.name)
        if own is not None and request.need.memory_bytes <= own.memory_bytes and request.need.cpus <= own.cpus:
            return None
        short = Shortage(request.need, self.free(request.name), self.kept(request.priority), request.priority)
        return short if short.lacks_memory or short.lacks_cpus else None

    def granted(self, request: RoomRequest, user: int | None = None) -> "Reservations":
        """Return a copy with *request* and *user*, if any, reserved."""
        users = self.users if user is None else self.users | {user}
        return replace(self, by_name={**self.by_name, request.name: request.need}, users=users)

    def room(self, priority: Priority) -> Room:
        """Return the free room for a start of *priority*."""
        free, kept = self.free(), self.kept(priority)
        usable = Need(free.memory_bytes - kept.memory_bytes, free.cpus - kept.cpus)
        return Room(self.total, usable, self.entity)


def _mib(need: Need, up: bool = False) -> str:
    mib = max(0, -(-need.memory_bytes // MIB) if up else need.memory_bytes // MIB)
    return f"{mib} MiB"


def _cpus(need: Need) -> str:
    return f"{max(0.0, need.cpus):g} CPUs"
