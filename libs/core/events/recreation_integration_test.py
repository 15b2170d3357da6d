"""The stream is deleted and recreated, as by each start of the platform's API: once, and repeatedly."""

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from libs.core.events.connection import NatsUnavailable
from libs.core.store.history import EntityEvent
from tests.support.eventually import eventually
from tests.support.rigs.event_rig import EventRig, ingesting_rig, payload

__all__ = ["ingesting_rig"]

TRIES = 100
LIMIT_SECONDS = 0.5
RE_CREATIONS = 10
EVENTS = 400
EVENTS_PER_SECOND = 200
IDS = 100
TICK_SECONDS = 0.01


@dataclass
class RecordingStore:
    """A store that records when it received each entity's first event."""

    store: Any
    read_at: dict[str, float] = field(default_factory=dict)

    def has_read(self, entity_id: str) -> bool:
        return entity_id in self.read_at

    async def apply(self, events: list[EntityEvent]) -> Any:
        now = time.monotonic()
        for event in events:
            self.read_at.setdefault(event.id, now)
        return await self.store.apply(events)


@dataclass
class Stalls:
    """How long this process stood still, since a busy machine gives it no time."""

    seconds: float = 0.0

    async def watch(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            self.seconds += time.monotonic() - before - TICK_SECONDS


async def test_after_each_re_creation_the_next_event_is_read_within_half_a_second(rig: EventRig) -> None:
    await rig.make_stream()
    store = RecordingStore(rig.store())
    await rig.start_worker(store=store)  # type: ignore[arg-type]
    stalls = Stalls()
    watching = asyncio.create_task(stalls.watch())
    late = {}
    for n in range(TRIES):
        await rig.remake_stream()
        published_at, stalled_seconds = time.monotonic(), stalls.seconds
        await rig.created(f"b{n}")
        await eventually(partial(store.has_read, f"b{n}"), every_seconds=0.005)
        seconds = store.read_at[f"b{n}"] - published_at - (stalls.seconds - stalled_seconds)
        if seconds >= LIMIT_SECONDS:
            late[n] = seconds
    watching.cancel()
    assert late == {}


async def test_many_re_creations_under_load_lose_no_event_that_the_stream_acknowledged(rig: EventRig) -> None:
    await rig.make_stream()
    for _ in range(2):
        await rig.start_worker()
    producer = Producer(rig)
    producing = asyncio.create_task(producer.produce())
    for _ in range(RE_CREATIONS):
        await asyncio.sleep(EVENTS / EVENTS_PER_SECOND / RE_CREATIONS)
        await rig.remake_stream()
    await producing

    assert len(producer.acknowledged) > EVENTS / 10
    await eventually(producer.nothing_is_wrong)
    await eventually(partial(each_is_counted, rig))


async def each_is_counted(rig: EventRig) -> bool:
    """Whether no slot is left of what several workers applied at once, from the stream and from copies."""
    counts = await rig.store().partitions.occupied()
    return sum(counts.values()) == len(await rig.ids())


async def test_a_poisonous_event_that_was_lost_with_the_stream_is_put_aside_once(rig: EventRig) -> None:
    await rig.make_stream()
    for _ in range(2):
        await rig.start_worker()
    await rig.raw(b"read from the stream")
    await eventually(partial(letters, rig, 1))
    await rig.delete_stream()
    await rig.client.publish(rig.service.created_subject, b"read from a copy alone")
    await rig.make_stream()
    await rig.raw(b"read from the new stream")

    await eventually(partial(letters, rig, 3))

    await rig.created("later")
    await eventually(lambda: rig.has("later"))
    found = [letter.data for letter in await rig.dead_letters.list()]
    assert sorted(found) == [b"read from a copy alone", b"read from the new stream", b"read from the stream"]


async def letters(rig: EventRig, number: int) -> bool:
    return len(await rig.dead_letters.list()) >= number


async def test_an_event_that_arrived_while_there_was_no_stream_and_failed_is_tried_again(rig: EventRig) -> None:
    await rig.make_stream()
    store = FailingOnce(rig.store())
    await rig.start_worker(store=store)  # type: ignore[arg-type]
    await rig.delete_stream()
    await rig.client.publish(rig.service.created_subject, payload("b1"))
    await rig.make_stream()

    await eventually(lambda: rig.has("b1"))
    assert store.failures == 1


@dataclass
class FailingOnce:
    """A store that fails the first time with an unexpected error."""

    store: Any
    failures: int = 0

    async def apply(self, events: list[EntityEvent]) -> Any:
        if self.failures == 0:
            self.failures += 1
            raise ValueError("a defect")
        return await self.store.apply(events)


class Producer:
    """Publishes events of few entities, in order for each, and records which ones the stream acknowledged."""

    def __init__(self, rig: EventRig) -> None:
        self._rig = rig
        self._free = [f"b{n}" for n in range(IDS)]
        self._last: dict[str, tuple[int, int | None]] = {}
        """Each entity's last event, and the expected content of its config; None when it is deleted."""
        self.acknowledged: set[int] = set()

    async def produce(self) -> None:
        drawn = random.Random(7)
        began_at = time.monotonic()
        async with asyncio.TaskGroup() as publishing:
            for number in range(EVENTS):
                await asyncio.sleep(max(0.0, began_at + number / EVENTS_PER_SECOND - time.monotonic()))
                bot_id = await eventually(lambda: self._free and self._free.pop(drawn.randrange(len(self._free))))
                publishing.create_task(self._publish(number, str(bot_id), is_deletion=drawn.random() < 0.3))

    async def _publish(self, number: int, bot_id: str, *, is_deletion: bool) -> None:
        service = self._rig.service
        self._last[bot_id] = (number, None if is_deletion else number)
        if is_deletion:
            subject, data = str(service.deleted_subject), f'{{"id": "{bot_id}", "config": {{}}}}'.encode()
        else:
            subject, data = str(service.updated_subject), payload(bot_id, n=number)
        # Without a stream there is no answer. When that is detected, the server has had the message for long.
        with contextlib.suppress(NatsUnavailable):
            await self._rig.jetstream.publish(subject, data, timeout_seconds=1)
            self.acknowledged.add(number)
        self._free.append(bot_id)

    async def nothing_is_wrong(self) -> bool:
        return not await self.wrong()

    async def wrong(self) -> dict[str, Any]:
        """The entities whose last event was acknowledged but not applied."""
        found = {bot["id"]: bot["config"]["n"] async for bot in self._rig.bots.find()}
        return {
            bot_id: (expected, found.get(bot_id))
            for bot_id, (number, expected) in self._last.items()
            if number in self.acknowledged and found.get(bot_id) != expected
        }
