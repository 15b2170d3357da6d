"""The outbox: nothing lost, nothing out of order, in the stream and before core subscribers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest_asyncio

from libs.core.events.connection import Message, NatsConnection
from libs.core.events.jetstream import JetStream
from libs.core.events.publisher import OutboxPublisher
from libs.core.store.outbox import Outbox
from tests.support.eventually import eventually
from tests.support.rigs.event_rig import EventRig, event_rig
from tools.stack.nats import NatsServer


@pytest_asyncio.fixture(loop_scope="session")
async def rig(mongo_uri: str, database_name: str, nats_server: NatsServer) -> AsyncIterator[EventRig]:
    async with event_rig(mongo_uri, database_name, nats_server.url) as rig:
        await rig.client.wait_connected()
        await rig.make_stream()
        yield rig


@asynccontextmanager
async def running(*publishers: OutboxPublisher) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(publisher.run()) for publisher in publishers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def outbox_of(rig: EventRig, claim_seconds: float = 15.0) -> Outbox:
    return Outbox(rig.mongo.database(rig.database_name), claim_seconds=claim_seconds)


async def in_stream(rig: EventRig) -> list[bytes]:
    state = await rig.jetstream.stream(rig.stream_name)
    numbers = range(state.first_sequence, state.last_sequence + 1)
    return [(await rig.jetstream.message(rig.stream_name, number)).data for number in numbers]


async def empty(outbox: Outbox) -> bool:
    return await outbox.count() == 0


async def test_an_event_reaches_the_stream_and_core_subscribers(rig: EventRig) -> None:
    received: list[Message] = []

    async def receive(message: Message) -> None:
        received.append(message)

    subscription = await rig.client.subscribe(rig.service.created_subject, receive)
    outbox = outbox_of(rig)
    publisher = OutboxPublisher(outbox, rig.client)
    async with running(publisher):
        await outbox.append("x", rig.service.created_subject, b"done", headers={"traceparent": "00-a-b-01"})
        publisher.wake.set()
        await eventually(lambda: received)
        await eventually(lambda: empty(outbox))
    await subscription.cancel()
    assert (received[0].data, received[0].headers["traceparent"]) == (b"done", "00-a-b-01")
    assert await in_stream(rig) == [b"done"]


async def test_an_event_that_can_go_at_once_does_and_leaves_nothing_behind(rig: EventRig) -> None:
    outbox = outbox_of(rig)
    publisher = OutboxPublisher(outbox, rig.client)
    for _ in range(2):
        await publisher.publish("x", rig.service.created_subject, b"done", event_id="done-x")
    assert await in_stream(rig) == [b"done"]
    assert await empty(outbox)


async def test_an_event_that_cannot_go_at_once_waits_behind_the_others_of_its_entity(rig: EventRig) -> None:
    outbox = outbox_of(rig)
    subject = rig.service.created_subject
    away = NatsConnection("nats://127.0.0.1:1", name="away")
    await OutboxPublisher(outbox, away).publish("x", subject, b"first", event_id="1")
    publisher = OutboxPublisher(outbox, rig.client)
    await publisher.publish("x", subject, b"second", event_id="2")
    await publisher.publish("y", subject, b"another's", event_id="3")
    assert await in_stream(rig) == [b"another's"]
    async with running(publisher):
        await eventually(lambda: empty(outbox))
    assert await in_stream(rig) == [b"another's", b"first", b"second"]


async def test_events_of_an_entity_leave_in_order_though_several_processes_publish(rig: EventRig) -> None:
    outbox = outbox_of(rig)
    for n in range(40):
        await outbox.append(f"e{n % 4}", rig.service.created_subject, f"e{n % 4} {n:02}".encode())
    publishers = [OutboxPublisher(outbox_of(rig), rig.client, interval_seconds=0.2) for _ in range(3)]
    async with running(*publishers):
        await eventually(lambda: empty(outbox))
    published = await in_stream(rig)
    for entity in range(4):
        of_entity = [data for data in published if data.startswith(b"e%d " % entity)]
        assert len(of_entity) == 10
        assert of_entity == sorted(of_entity)


async def test_an_event_published_by_a_process_that_died_before_noting_it_is_stored_once(rig: EventRig) -> None:
    outbox = outbox_of(rig, claim_seconds=7)
    await outbox.append("x", rig.service.created_subject, b"done", event_id="run-1")
    [event] = await outbox.claim()
    await rig.jetstream.publish(event.subject, event.data, {"Nats-Msg-Id": event.id})
    await outbox.release(event.id)  # as when its claim runs out
    async with running(OutboxPublisher(outbox, rig.client)):
        await eventually(lambda: empty(outbox))
    assert await in_stream(rig) == [b"done"]


async def test_an_event_appended_twice_under_one_id_waits_once(rig: EventRig) -> None:
    outbox = outbox_of(rig)
    for data in (b"first", b"second"):
        await outbox.append("x", "a.b", data, event_id="same")
    assert [event.data for event in await outbox.claim()] == [b"first"]


async def test_an_event_that_no_stream_takes_keeps_its_place_until_one_does(rig: EventRig) -> None:
    outbox = outbox_of(rig)
    publisher = OutboxPublisher(outbox, rig.client, interval_seconds=0.2)
    await rig.jetstream.delete_stream(rig.stream_name)
    for data in (b"1", b"2"):
        await outbox.append("x", rig.service.created_subject, data)
    assert not await publisher.drain()
    assert await outbox.count() == 2
    await rig.make_stream()
    async with running(publisher):
        await eventually(lambda: empty(outbox))
    assert await in_stream(rig) == [b"1", b"2"]


async def test_events_appended_during_outage_are_published_after_it(
    mongo_uri: str, database_name: str, tmp_path: Path
) -> None:
    server = NatsServer(tmp_path)
    async with event_rig(mongo_uri, database_name, server.url) as rig:
        outbox = outbox_of(rig)
        await outbox.append("x", rig.service.created_subject, b"done")
        publisher = OutboxPublisher(outbox, rig.client, interval_seconds=0.2)
        async with running(publisher):
            await server.launch()
            try:
                await rig.client.wait_connected()
                await rig.make_stream()
                await eventually(lambda: empty(outbox))
                assert await in_stream(rig) == [b"done"]
            finally:
                await server.stop()


async def test_a_connection_that_never_was_needs_no_server_to_be_given_up() -> None:
    connection = NatsConnection("nats://user:secret@127.0.0.1:1", name="nobody")
    running_connection = asyncio.create_task(connection.run())
    await asyncio.sleep(0.05)
    running_connection.cancel()
    await asyncio.gather(running_connection, return_exceptions=True)
    assert not JetStream(connection).connection.connected
