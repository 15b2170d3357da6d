"""Events go on after the engine was away."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime

from libs.docker_runner.engine.events import ContainerEvent, EventKind, follow_events
from libs.docker_runner.errors import EngineUnavailable


class Source:
    """Ends its first connection with an error and its second one without."""

    def __init__(self) -> None:
        self.connections = 0

    async def events(self, labels: Mapping[str, str], silence_seconds: float) -> AsyncGenerator[ContainerEvent, None]:
        self.connections += 1
        if self.connections == 2:
            raise EngineUnavailable("events", "refused")
        yield ContainerEvent(EventKind.RESYNC, datetime.now(UTC))
        yield ContainerEvent(EventKind.DIED, datetime.now(UTC), id=str(self.connections))
        if self.connections == 1:
            raise EngineUnavailable("events", "broken")
        await asyncio.Event().wait()


async def test_a_gap_is_told_as_a_resync() -> None:
    gaps: list[int] = []
    source = Source()
    seen: list[str] = []
    async with aclosing(follow_events(source, {}, on_gap=lambda: gaps.append(source.connections))) as events:
        async for event in events:
            seen.append(f"{event.kind}{event.id}")
            if len(seen) == 4:
                break
    assert seen == ["resync", "died1", "resync", "died3"]
    assert gaps == [1, 2]
