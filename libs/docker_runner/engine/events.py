"""Events of containers, as values, and the protocol of their source."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class EventKind(StrEnum):
    """Events of a container, or of the stream of events.

    KILLED: it was sent SIGKILL. RESYNC comes first and after every gap: changes during the gap are unknown, so list
    again.
    """

    STARTED = "started"
    KILLED = "killed"
    DIED = "died"
    OUT_OF_MEMORY = "out-of-memory"
    REMOVED = "removed"
    RESYNC = "resync"


@dataclass(frozen=True)
class ContainerEvent:
    """One event. For RESYNC all fields except *kind* and *at* are empty; *segment* is -1 without a label."""

    kind: EventKind
    at: datetime
    container_id: str = ""
    name: str = ""
    id: str = ""
    service: str = ""
    scope: str = ""
    segment: int = -1
    exit_code: int | None = None


class EventSource(Protocol):
    """A connection to events; implemented by :class:`~libs.docker_runner.engine.client.Engine`."""

    def events(self, labels: Mapping[str, str], silence_seconds: float) -> AsyncGenerator[ContainerEvent, None]:
        """Yield a RESYNC, then events until the connection ends for any reason."""
