"""A service's events on real servers: its store, its stream, and reading workers, separate from all other tests."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest_asyncio
from nats.js.api import ConsumerInfo

from libs.core.events.connection import NatsConnection, NatsUnavailable
from libs.core.events.dead_letters import DeadLetters
from libs.core.events.ingestion import Ingestion
from libs.core.events.jetstream import MESSAGE_ID, JetStream, Published, StreamMissing
from libs.core.events.wakeups import WakeUps
from libs.core.http.health import Readiness
from libs.core.process.service import BOT_RUNNER, ServiceDefinition
from libs.core.store.client import Mongo
from libs.core.store.entities import EntityStore
from libs.core.store.failures import FailureStore
from libs.core.store.partitions import PartitionStore
from tests.support.eventually import eventually
from tools.stack.nats import NatsServer

T = TypeVar("T")

_PATIENCE_SECONDS = 60.0


@dataclass
class EventWorker:
    """One process's reading of events."""

    connection: NatsConnection
    readiness: Readiness
    store: EntityStore
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def kill(self) -> None:
        """End it like a crash: events in hand are not acknowledged."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@dataclass
class EventRig:
    """A service with its own subjects, stream and database."""

    service: ServiceDefinition
    stream_name: str
    nats_url: str
    mongo: Mongo
    database_name: str
    client: NatsConnection
    """The producer's connection."""
    workers: list[EventWorker] = field(default_factory=list)

    @property
    def jetstream(self) -> JetStream:
        return JetStream(self.client)

    @property
    def dead_letters(self) -> DeadLetters:
        return self._dead_letters(self.client)

    @property
    def bots(self) -> Any:
        return self.mongo.database(self.database_name)["bots"]

    def store(self, **options: Any) -> EntityStore:
        database = self.mongo.database(self.database_name)
        return EntityStore(database, "bots", PartitionStore(database, "bots", 10), **options)

    async def start_worker(
        self, *, mongo: Mongo | None = None, store: EntityStore | None = None, ready: bool = True, **options: Any
    ) -> EventWorker:
        """A worker that reads the stream (or, without *ready*, is about to)."""
        database = (mongo or self.mongo).database(self.database_name)
        if store is None:
            store = EntityStore(database, "bots", PartitionStore(database, "bots", 10))
        readiness = Readiness()
        connection = NatsConnection(self.nats_url, name="worker", readiness=readiness)
        ingestion = Ingestion(
            self.service,
            store,
            FailureStore(database),
            connection,
            WakeUps(connection, self.service.name),
            readiness=readiness,
            stream_name=self.stream_name,
            subjects=self.subjects,
            dead_letters=self._dead_letters(connection),
            **options,
        )
        tasks = [asyncio.create_task(connection.run()), asyncio.create_task(ingestion.run())]
        worker = EventWorker(connection, readiness, store, tasks)
        self.workers.append(worker)
        if ready:
            await eventually(lambda: (state := readiness.states.get("events")) is not None and state.ok)
        return worker

    @property
    def subjects(self) -> tuple[str, ...]:
        return self.service.subjects

    async def make_stream(self, **changes: Any) -> None:
        """Create the stream like the platform's API."""
        config = {"subjects": list(self.subjects), "storage": "file", "retention": "limits", **changes}
        await _patiently(lambda: self.jetstream.create_stream(self.stream_name, **config))

    async def update_stream(self, **changes: Any) -> None:
        """Change the stream like a newer API, which keeps its messages and consumers."""
        config = {"name": self.stream_name, "storage": "file", "retention": "limits", **changes}
        await _patiently(lambda: self.client.manage("to update", lambda manager: manager.update_stream(**config)))

    async def delete_stream(self) -> None:
        """Delete the stream; another client may recreate it at any time."""
        with contextlib.suppress(StreamMissing):
            await _patiently(lambda: self.jetstream.delete_stream(self.stream_name))

    async def remake_stream(self) -> None:
        """Recreate the stream, like each start of the platform's API."""
        await self.delete_stream()
        await self.make_stream()

    async def created(self, bot_id: str, **changes: Any) -> Published:
        return await self._published(self.service.created_subject, payload(bot_id, **changes))

    async def updated(self, bot_id: str, **changes: Any) -> Published:
        return await self._published(str(self.service.updated_subject), payload(bot_id, **changes))

    async def deleted(self, bot_id: str) -> Published:
        return await self._published(
            str(self.service.deleted_subject), json.dumps({"id": bot_id, "config": {}}).encode()
        )

    async def raw(self, data: bytes, headers: Mapping[str, str] | None = None) -> Published:
        """Publish with exactly these headers, and therefore only once."""
        return await self.jetstream.publish(self.service.created_subject, data, headers, _PATIENCE_SECONDS)

    async def consumers(self) -> list[ConsumerInfo]:
        """Return the stream's consumers, as JetStream describes them."""
        return await _patiently(
            lambda: self.client.manage("consumers", lambda manager: manager.consumers_info(self.stream_name, 0))
        )

    async def all_acknowledged(self) -> bool:
        """Whether the stream has a consumer, and every message is acknowledged.

        The number of messages that wait for the consumer does not suffice: it is updated slightly after a publish.
        """
        last = (await self.jetstream.stream(self.stream_name)).last_sequence
        consumers = await self.consumers()
        return bool(consumers) and all(
            consumer.ack_floor is not None and consumer.ack_floor.stream_seq >= last for consumer in consumers
        )

    async def _published(self, subject: str, data: bytes) -> Published:
        headers = {MESSAGE_ID: uuid.uuid4().hex}  # stored once, even if sent repeatedly
        return await _patiently(lambda: self.jetstream.publish(subject, data, headers))

    async def has(self, bot_id: str) -> bool:
        return bot_id in await self.ids()

    async def has_just(self, *bot_ids: str) -> bool:
        return await self.ids() == set(bot_ids)

    async def ids(self) -> set[str]:
        return {document["id"] async for document in self.bots.find({}, {"id": 1})}

    def _dead_letters(self, connection: NatsConnection) -> DeadLetters:
        return DeadLetters(JetStream(connection), stream=f"D_{self.stream_name}", subjects=f"dlq.{self.stream_name}")


@pytest_asyncio.fixture(loop_scope="session", name="rig")
async def ingesting_rig(mongo_uri: str, database_name: str, nats_server: NatsServer) -> AsyncIterator[EventRig]:
    """A rig that is ready for workers, without a stream."""
    async with event_rig(mongo_uri, database_name, nats_server.url) as rig:
        await rig.client.wait_connected()
        await rig.store().ensure_indexes()
        yield rig


async def _patiently(request: Callable[[], Awaitable[T]]) -> T:
    """Retry until there is an answer: a loaded machine may exceed the time limit."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return await request()
        except NatsUnavailable:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.1)


def payload(bot_id: str, *, updated_at: str | None = None, **config: Any) -> bytes:
    """Return a bot's `created` or `updated` event of this moment, to the microsecond."""
    custom = {
        "config": {"name": bot_id, "runtime": "python3.11", "entrypoints": {"bot": "main.py"}},
        "updatedAt": updated_at or datetime.fromtimestamp(time.time(), UTC).isoformat(),
        "filePath": "bots/1",
        "version": "1.0.0",
    }
    return json.dumps({"id": bot_id, "config": config, "custom": custom}).encode()


@contextlib.asynccontextmanager
async def event_rig(mongo_uri: str, database_name: str, nats_url: str) -> AsyncIterator[EventRig]:
    """A rig whose tasks, streams and connections are removed afterwards."""
    unique = uuid.uuid4().hex[:12]
    service = replace(
        BOT_RUNNER,
        name=f"bot-runner-{unique}",
        created_subject=f"{unique}.bot.created",
        updated_subject=f"{unique}.bot.updated",
        deleted_subject=f"{unique}.bot.deleted",
    )
    mongo = Mongo(mongo_uri)
    client = NatsConnection(nats_url, name="producer")
    running = asyncio.create_task(client.run())
    rig = EventRig(service, f"T_{unique}", nats_url, mongo, database_name, client)
    try:
        yield rig
    finally:
        for worker in rig.workers:
            await worker.kill()
        if client.connected:
            for stream in (rig.stream_name, f"D_{rig.stream_name}"):
                with contextlib.suppress(Exception):
                    await rig.jetstream.delete_stream(stream)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await mongo.close()
