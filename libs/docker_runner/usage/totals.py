"""Sum up the usage of this worker's containers. Pure: takes samples as arguments."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from libs.docker_runner.containers.container import Ended, ManagedContainer
from libs.docker_runner.usage.stats import Stats


@dataclass(frozen=True)
class Usage:
    """One container, as last sampled. *cpus* is the number of CPUs in use since the sample before; None at first."""

    container: ManagedContainer
    stats: Stats
    cpus: float | None = None


class UsageTally:
    """Total CPU seconds, which never decrease, and current memory.

    The CPU time of a container that this worker started counts from its start; that of a container which it took over,
    from the first sample, since an earlier worker counted the time before.
    """

    def __init__(self) -> None:
        self.cpu_seconds = 0.0
        """CPU time since this worker started, including removed containers."""
        self._counted: dict[str, float] = {}
        self._latest: dict[str, Usage] = {}
        self._present: set[str] = set()
        self._sampled_at: float | None = None

    @property
    def latest(self) -> Collection[Usage]:
        """The running containers, as last sampled."""
        return self._latest.values()

    @property
    def memory_bytes(self) -> int:
        """Their memory, without the part that the kernel would reclaim at once."""
        return sum(usage.stats.memory_bytes for usage in self._latest.values())

    @property
    def memory_limit_bytes(self) -> int:
        """The sum of their memory limits."""
        return sum(usage.stats.memory_limit_bytes for usage in self._latest.values())

    def started(self, container: ManagedContainer) -> None:
        """Add *container*, which this worker has just started."""
        self._counted.setdefault(container.container_id, 0.0)

    def sampled(self, found: Mapping[str, Usage], present: Collection[str], at: float | None = None) -> None:
        """Update with a sample of all containers of this worker.

        Args:
            found: the running containers with known usage, by the engine's id.
            present: the ids of all containers of the engine, running or not.
            at: the time of the sample in seconds, by a clock that does not jump.
        """
        for container_id, usage in found.items():
            self._count(container_id, usage.stats.cpu_seconds)
        seconds = at - self._sampled_at if at is not None and self._sampled_at is not None else 0.0
        self._latest = {name: _with_rate(usage, self._latest.get(name), seconds) for name, usage in found.items()}
        self._sampled_at = at
        # One started meanwhile is in neither list.
        for gone in self._present - set(present):
            self._counted.pop(gone, None)
        self._present = set(present)

    def ended(self, ended: Ended, *, removed: bool) -> None:
        """Add a container's usage since its last sample, after its end. May be repeated."""
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


def _with_rate(usage: Usage, before: Usage | None, seconds: float) -> Usage:
    if before is None or seconds <= 0.0:
        return usage
    return replace(usage, cpus=max(0.0, usage.stats.cpu_seconds - before.stats.cpu_seconds) / seconds)
