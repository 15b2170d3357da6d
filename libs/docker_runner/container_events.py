"""What happens to containers, as it happens: the engine's events, followed whatever becomes of the engine."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class EventKind(StrEnum):
    """RESYNC comes first and after every gap: what happened meanwhile is unknown, so list again."""

    STARTED = "started"
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
    segment: int = -1
    exit_code: int | None = None
