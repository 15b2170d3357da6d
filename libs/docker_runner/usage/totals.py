"""Sum up the usage of this worker's containers. Pure: takes samples as arguments."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from libs.docker_runner.containers.container import Ended, ManagedContainer
from libs.docker_runner.usage.stats import Stats


@dataclass(frozen=True)
class Usage:
    """One container, as last seen."""

    container: ManagedContainer
    stats: Stats


class UsageTally:
    """CPU seconds that only grow, and memory as it is now.

    The CPU of a container that this worker started counts from its start; that of one which it took over from the
    moment at which it was first seen, since what it used before was an earlier worker's to count.
    """

    def __init__(self) -> None:
        self.cpu_seconds = 0.0
        """Used since this worker started, by containers that are gone too."""
        self._counted: dict[str, float] = {}
        self._latest: dict[str, Usage] = {}
        self._present: set[str] = set()

    @property
    def latest(self) -> Collection[Usage]:
        """The containers that run, as they were seen last."""
        return self._latest.values()

    @property
    def memory_bytes(self) -> int:
        """What they use now, without what the kernel would give back at once."""
        return sum(usage.stats.memory_bytes for usage in self._latest.values())

    @property
    def memory_limit_bytes(self) -> int:
        """What they may use."""
        return sum(usage.stats.memory_limit_bytes for usage in self._latest.values())

    def started(self, container: ManagedContainer) -> None:
        """This worker has just started *container*."""
        self._counted.setdefault(container.container_id, 0.0)

    def sampled(self, found: Mapping[str, Usage], present: Collection[str]) -> None:
        """All containers of this worker were looked at.

        Args:
            found: those that run and whose use is known, by the engine's id.
            present: the ids of all that the engine has, running or not.
        """
        for container_id, usage in found.items():
            self._count(container_id, usage.stats.cpu_seconds)
        self._latest = dict(found)
        # One that was started meanwhile is in none of both lists.
        for gone in self._present - set(present):
            self._counted.pop(gone, None)
        self._present = set(present)

    def ended(self, ended: Ended, *, removed: bool) -> None:
        """A container has ended; what it used since it was last seen counts too. May be repeated."""
        container_id = ended.container.container_id
        if ended.cpu_seconds is not None and container_id in self._counted:
            self._count(container_id, ended.cpu_seconds)
        self._latest.pop(container_id, None)
        if removed:
            self._counted.pop(container_id, None)

    def _count(self, container_id: str, cpu_seconds: float) -> None:
        counted = self._counted.get(container_id, cpu_seconds)
        self.cpu_seconds += max(0.0, cpu_seconds - counted)
        self._counted[container_id] = max(counted, cpu_seconds)
