"""Events reach the listeners of their service and scope, and continue after an interruption of the engine."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from libs.docker_runner.engine.container_watch import ContainerWatch
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.errors import EngineUnavailable
from tests.support.eventually import eventually


class Source:
    """Ends its first connection with an error, refuses the second, fails on the third, and ends the fourth."""

    def __init__(self) -> None:
        self.connections = 0

    async def events(self, labels: Mapping[str, str], silence_seconds: float) -> AsyncGenerator[ContainerEvent, None]:
        self.connections += 1
        if self.connections == 2:
            raise EngineUnavailable("events", "refused")
        yield ContainerEvent(EventKind.RESYNC, datetime.now(UTC))
        yield ContainerEvent(EventKind.DIED, datetime.now(UTC), id=str(self.connections), service="s", scope="x")
        match self.connections:
            case 1:
                raise EngineUnavailable("events", "broken")
            case 3:
                raise ValueError("a defect")
            case 5:
                await asyncio.Event().wait()


class Pushed:
    """One connection, with events from the test."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[ContainerEvent] = asyncio.Queue()
        self.labels: Mapping[str, str] = {}

    def push(self, kind: EventKind, entity_id: str = "", service: str = "", scope: str = "") -> None:
        self.queue.put_nowait(ContainerEvent(kind, datetime.now(UTC), id=entity_id, service=service, scope=scope))

    async def events(self, labels: Mapping[str, str], silence_seconds: float) -> AsyncGenerator[ContainerEvent, None]:
        self.labels = labels
        while True:
            yield await self.queue.get()


@asynccontextmanager
async def running(watch: ContainerWatch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_each_gap_is_reported_at_once_and_ends_with_a_resync() -> None:
    source = Source()
    gaps: list[int] = []
    seen: list[str] = []
    watch = ContainerWatch(
        source,
        listeners=[lambda event: seen.append(f"{event.kind}{event.id}")],
        on_gap=lambda: gaps.append(source.connections),
    )
    async with running(watch):
        await eventually(lambda: len(seen) == 8)
    assert seen == ["resync", "died1", "resync", "died3", "resync", "died4", "resync", "died5"]
    assert gaps == [1, 2, 3, 4]


async def test_listener_gets_events_of_its_service_and_scope_and_every_resync_until_its_block_ends() -> None:
    source = Pushed()
    everything: list[str] = []
    own: list[str] = []
    watch = ContainerWatch(source, listeners=[lambda event: everything.append(event.id)], on_gap=lambda: None)
    async with running(watch):
        with watch.listening(lambda event: own.append(event.id), "s", "x"):
            source.push(EventKind.RESYNC, "resync")
            source.push(EventKind.DIED, "own", "s", "x")
            source.push(EventKind.DIED, "other service", "t", "x")
            source.push(EventKind.DIED, "other scope", "s", "y")
            await eventually(lambda: len(everything) == 4)
        source.push(EventKind.DIED, "too late", "s", "x")
        await eventually(lambda: len(everything) == 5)
    assert own == ["resync", "own"]
    assert source.labels == {"runtime.managed": "true"}


async def test_exception_of_a_listener_affects_neither_other_listeners_nor_the_stream() -> None:
    source = Pushed()
    gaps: list[int] = []
    received: list[str] = []

    def broken(event: ContainerEvent) -> None:
        raise ValueError("a defect, as the test requires")

    watch = ContainerWatch(source, listeners=[broken], on_gap=lambda: gaps.append(1))
    async with running(watch):
        with (
            watch.listening(broken, "s", "x"),
            watch.listening(lambda event: received.append(event.id), "s", "x"),
        ):
            for entity_id in ("a", "b"):
                source.push(EventKind.DIED, entity_id, "s", "x")
            await eventually(lambda: len(received) == 2)
    assert received == ["a", "b"]
    assert gaps == []


async def test_listener_that_ends_its_own_subscription_does_not_affect_the_next_one() -> None:
    source = Pushed()
    received: list[str] = []
    watch = ContainerWatch(source, listeners=[], on_gap=lambda: None)
    first = watch.listening(lambda event: first.__exit__(None, None, None), "s", "x")
    first.__enter__()
    async with running(watch):
        with watch.listening(lambda event: received.append(event.id), "s", "x"):
            source.push(EventKind.DIED, "a", "s", "x")
            source.push(EventKind.DIED, "b", "s", "x")
            await eventually(lambda: len(received) == 2)
    assert received == ["a", "b"]
