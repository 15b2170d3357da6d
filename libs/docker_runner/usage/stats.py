"""Resource usage of a running container."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stats:
    """One sample. CPU seconds never decrease; the difference of two samples is the usage between them.

    *peak_memory_bytes* includes page cache, and is None if the kernel does not provide it.
    """

    memory_bytes: int
    memory_limit_bytes: int
    cpu_seconds: float
    pids: int
    network_received_bytes: int
    network_sent_bytes: int
    peak_memory_bytes: int | None = None
