"""Events of containers, as values, and the protocol of their source."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class EventKind(StrEnum):
    """What happens to a container, or to the stream of events.

    KILLED: it was sent SIGKILL. RESYNC comes first and after every gap: what happened meanwhile is unknown, so list
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
    """One event. For RESYNC everything but *kind* and *at* is empty; *segment* is -1 where none was given."""

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
    """One connection's worth of events; :class:`~libs.docker_runner.engine.client.Engine` has it."""

    def events(self, labels: Mapping[str, str], silence_seconds: float) -> AsyncGenerator[ContainerEvent, None]:
        """A RESYNC, then events until the connection ends, however it does."""
