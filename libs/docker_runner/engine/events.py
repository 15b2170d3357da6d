"""What happens to containers, as it happens: the engine's events, followed whatever becomes of the engine."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from libs.core.aio.backoff import Backoff
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.process.isolation import unexpected

log = get_logger(__name__)

# A connection that lost its other end says nothing either; asking anew costs one request.
_SILENCE_SECONDS = 300.0


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
    segment: int = -1
    exit_code: int | None = None


class EventSource(Protocol):
    """One connection's worth of events; :class:`~libs.docker_runner.engine.client.Engine` has it."""

    def events(self, labels: Mapping[str, str], silence_seconds: float) -> AsyncGenerator[ContainerEvent, None]:
        """A RESYNC, then events until the connection ends, however it does."""


async def follow_events(
    source: EventSource, labels: Mapping[str, str], on_gap: Callable[[], None]
) -> AsyncGenerator[ContainerEvent, None]:
    """Events of containers with *labels*, for ever. *on_gap* is called when the engine was away."""
    backoff = Backoff(0.1, 5.0)
    while True:
        try:
            async with aclosing(source.events(labels, _SILENCE_SECONDS)) as events:
                async for event in events:
                    if event.kind is EventKind.RESYNC and backoff.failures:
                        log.info("container events are followed again")
                        backoff.reset()
                    yield event
            reason = "the engine closed the stream"
        except RuntimeFault as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - what the engine says is read anew; a gap is a RESYNC
            unexpected("follow container events", error)
            reason = type(error).__name__
        log.warning("container events break off", reason=reason)
        on_gap()
        await asyncio.sleep(backoff.next_seconds())
