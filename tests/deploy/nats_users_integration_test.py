"""The users of NATS that Compose and the component backing-services have, on a real server with their files."""

import asyncio
import contextlib
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path

import nats
import nats.errors
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.aio.msg import Msg

from libs.core.aio.wake import Wake
from libs.core.config.connection_settings import NatsSettings
from libs.core.config.settings_loader import load
from libs.core.events.connection import DEPENDENCY, NatsConnection
from libs.core.events.dead_letters import DeadLetters
from libs.core.events.ingestion import Ingestion
from libs.core.events.jetstream import JetStream
from libs.core.events.publisher import OutboxPublisher
from libs.core.events.stream import EVENT_STREAM
from libs.core.events.wakeups import WakeUps
from libs.core.http.health import Readiness
from libs.core.process.service import SERVICES, ServiceDefinition
from libs.core.store.client import Mongo
from libs.core.store.entities import EntityStore
from libs.core.store.failures import FailureStore
from libs.core.store.outbox import Outbox
from libs.core.store.partitions import PartitionStore
from tests.deploy.manifests import KUBERNETES, USERS, password_variable
from tests.support.eventually import eventually
from tools.stack.nats import NatsServer

FILES = KUBERNETES / "components" / "backing-services"
ADMINISTRATOR = "the0"

each_service = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)


class NatsOfTheComponent(NatsServer):
    """A server with the component's configuration; only its ports and its folder are changed."""

    async def _prepare(self) -> None:
        await super()._prepare()
        text = (FILES / "nats.conf").read_text()
        # No port for the kubelet.
        lines = [line for line in text.splitlines() if not line.startswith("http:")]
        changed = "\n".join(lines).replace("4222", str(self.port)).replace("/data", str(self.directory / "data"))
        (self.directory / "nats.conf").write_text(changed)
        shutil.copy(FILES / "nats-users.conf", self.directory)

    def _command(self) -> Sequence[str | Path]:
        program, *_ = super()._command()
        return [program, "-a", "127.0.0.1", "-c", self.directory / "nats.conf"]

    older_inbox = "_INBOX.none"

    def _environment(self) -> dict[str, str]:
        passwords = {variable_of(user): secret_of(user) for user in (ADMINISTRATOR, *USERS)}
        return {"NATS_OLDER_INBOX": self.older_inbox, **passwords}

    def url_of(self, user: str) -> str:
        """The value for NATS_URL."""
        return f"nats://{user}:{secret_of(user)}@{self.address}"


def variable_of(user: str) -> str:
    return "NATS_PASSWORD" if user == ADMINISTRATOR else password_variable("NATS", user)


def secret_of(user: str) -> str:
    return f"k-{user}"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsOfTheComponent]:
    async with NatsOfTheComponent.start(tmp_path_factory.mktemp("nats")) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def platform(server: NatsOfTheComponent) -> AsyncIterator[JetStream]:
    """The administrator; both streams are missing at the beginning."""
    async with connection_of(server, ADMINISTRATOR, "platform") as connection:
        jetstream = JetStream(connection)
        for name in (EVENT_STREAM, "THE0_DLQ"):
            with contextlib.suppress(Exception):
                await jetstream.delete_stream(name)
        yield jetstream


@contextlib.asynccontextmanager
async def connection_of(server: NatsOfTheComponent, user: str, inbox: str) -> AsyncIterator[NatsConnection]:
    settings = load(NatsSettings, environ={"NATS_URL": server.url_of(user)})
    connection = NatsConnection.of(settings, name="test", inbox=inbox)
    assert connection is not None
    running = asyncio.create_task(connection.run())
    try:
        await connection.wait_connected()
        yield connection
    finally:
        running.cancel()
        await asyncio.wait([running])


@contextlib.asynccontextmanager
async def raw_client(server: NatsOfTheComponent, user: str, inbox: str = "_INBOX") -> AsyncIterator[Client]:
    """The driver alone, as an attacker with a password may use it."""
    client = await nats.connect(server.url_of(user), allow_reconnect=False, inbox_prefix=inbox, connect_timeout=30)
    try:
        yield client
    finally:
        await client.close()


@each_service
async def test_worker_can_do_all_that_it_does_with_events(
    server: NatsOfTheComponent, platform: JetStream, mongo_uri: str, database_name: str, service: ServiceDefinition
) -> None:
    user, readiness, wake = f"{service.name}-worker", Readiness(), Wake()
    async with (
        contextlib.AsyncExitStack() as stack,
        connection_of(server, user, user) as connection,
        connection_of(server, user, user) as other_worker,
        connection_of(server, f"{service.name}-master", f"{service.name}-master") as masters,
    ):
        mongo = Mongo(mongo_uri)
        stack.push_async_callback(mongo.close)
        database = mongo.database(database_name)
        store = EntityStore(database, service.collection, PartitionStore(database, service.collection, 10))
        await store.ensure_indexes()
        wake_ups = WakeUps(connection, service.name)
        ingestion = Ingestion(service, store, FailureStore(database), connection, wake_ups, readiness=readiness)
        await WakeUps(masters, service.name).on_partitions(wake)
        assert await wake.wait_at_most(60)
        reading = asyncio.create_task(ingestion.run())
        try:
            # It makes the stream, and a consumer on it.
            await eventually(lambda: (state := readiness.states.get("events")) is not None and state.ok)
            await platform.publish(service.created_subject, event("known"))
            await eventually(lambda: store.get("known"))
            await platform.publish(service.created_subject, b"no event")
            letters = DeadLetters(JetStream(other_worker))
            await eventually(lambda: letters.count(service.name))
            # The loss of the stream is noticed, and copies are compared with dead letters.
            await platform.delete_stream(EVENT_STREAM)
            await eventually(lambda: exists(platform))
            await platform.publish(service.created_subject, event("later"))
            await eventually(lambda: store.get("later"))
        finally:
            reading.cancel()
            await asyncio.wait([reading])
        (letter,) = await letters.list(service.name)
        assert letter.data == b"no event"
        changed = Wake()
        async with WakeUps(other_worker, service.name).waking(7, changed):
            assert await changed.wait_at_most(60)
            await eventually(lambda: arrives(wake_ups.segments_changed([7]), changed))
        await eventually(lambda: arrives(wake_ups.partitions_changed(), wake))
        if service.completed_subject is not None:
            publisher = OutboxPublisher(Outbox(database), connection)
            before = (await platform.stream(EVENT_STREAM)).last_sequence
            await publisher.publish("known", service.completed_subject, b"{}", event_id=uuid.uuid4().hex)
            assert (await platform.stream(EVENT_STREAM)).last_sequence == before + 1


async def arrives(hint: Awaitable[None], wake: Wake) -> bool:
    """Whether a hint arrives soon; the first ones may be sent before the server has the subscription."""
    await hint
    return await wake.wait_at_most(0.2)


def event(entity_id: str) -> bytes:
    return json.dumps({"id": entity_id, "config": {}, "custom": {"config": {}, "filePath": "code"}}).encode()


async def exists(jetstream: JetStream) -> bool:
    with contextlib.suppress(Exception):
        return bool(await jetstream.stream(EVENT_STREAM))
    return False


FORBIDDEN_TO_WORKERS = [
    "the0.bot.created",
    "the0.bot-schedule.deleted",
    "the0.backtest.created",
    "custom-bot.approved",
    "$JS.API.STREAM.DELETE.THE0_EVENTS",
    "$JS.API.STREAM.UPDATE.THE0_EVENTS",
    "$JS.API.STREAM.PURGE.THE0_EVENTS",
    "$JS.API.STREAM.MSG.DELETE.THE0_EVENTS",
    "$JS.API.STREAM.MSG.GET.THE0_EVENTS",
    "$JS.API.DIRECT.GET.THE0_EVENTS",
    "$JS.API.STREAM.CREATE.OTHER",
    "$JS.API.STREAM.DELETE.THE0_DLQ",
    "$JS.API.STREAM.PURGE.THE0_DLQ",
    "$JS.API.STREAM.MSG.DELETE.THE0_DLQ",
    "$JS.API.STREAM.SNAPSHOT.THE0_EVENTS",
    "$JS.API.CONSUMER.CREATE.THE0_DLQ.mine",
    "$JS.API.STREAM.NAMES",
    "$JS.API.INFO",
    "$SYS.REQ.SERVER.PING",
]


@pytest.mark.parametrize("user", USERS)
async def test_user_may_publish_nothing_else(server: NatsOfTheComponent, user: str) -> None:
    service = next(found for found in SERVICES if user.startswith(found.name))
    others = [found for found in SERVICES if found is not service]
    subjects = [*FORBIDDEN_TO_WORKERS, *(f"the0.dlq.{other.name}" for other in others)]
    subjects += [f"runtime.{other.name}.segment.1" for other in others]
    subjects += [f"runtime.{other.name}.partitions" for other in others]
    if user.endswith("-master"):
        subjects += ["$JS.API.STREAM.INFO.THE0_EVENTS", f"the0.dlq.{service.name}", f"runtime.{service.name}.segment.1"]
    if user != "backtest-runner-worker":
        subjects.append("the0.backtest.completed")

    assert await permitted_to_publish(server, user, subjects) == []


async def permitted_to_publish(server: NatsOfTheComponent, user: str, subjects: Sequence[str]) -> list[str]:
    """Those that the administrator, who may read everything, receives."""
    received: list[str] = []
    async with raw_client(server, ADMINISTRATOR) as reader, raw_client(server, user) as client:

        async def note(message: Msg) -> None:
            received.append(message.subject)

        for subject in {*subjects, "end"}:
            await reader.subscribe(subject, cb=note)
        await reader.flush()
        for subject in subjects:
            await client.publish(subject, b"forged")
        # The server handles what one client sends in order.
        await client.flush(30)
        await reader.publish("end")
        await eventually(lambda: "end" in received)
    return [subject for subject in received if subject != "end"]


@pytest.mark.parametrize("user", USERS)
async def test_user_receives_nothing_else(server: NatsOfTheComponent, user: str) -> None:
    service = next(found for found in SERVICES if user.startswith(found.name))
    others = [found for found in SERVICES if found is not service]
    subjects = [subject for other in others for subject in other.subjects]
    subjects += ["the0.backtest.completed", "the0.dlq.bot-runner", "custom-bot.approved", "$SYS.x", "$JS.API.x"]
    subjects += [f"_INBOX.{other}.x" for other in USERS if other != user]
    subjects += [f"runtime.{other.name}.segment.1" for other in others]
    received: list[str] = []

    async def note(message: Msg) -> None:
        received.append(message.subject)

    async with raw_client(server, ADMINISTRATOR) as writer, raw_client(server, user) as client:
        for subject in (">", "the0.>", "_INBOX.>", "$JS.>", *subjects):
            await client.subscribe(subject, cb=note)
        await client.flush(30)
        for subject in subjects:
            await writer.publish(subject, b"secret")
        await writer.flush(30)
        await client.flush(30)

    assert received == []


async def test_worker_of_an_older_version_gets_answers_only_where_that_is_permitted(
    server: NatsOfTheComponent, tmp_path: Path
) -> None:
    async def answered(by: NatsOfTheComponent, within_seconds: float) -> bool:
        async with raw_client(by, "bot-runner-worker") as client:
            try:
                await client.request("$JS.API.STREAM.INFO.THE0_EVENTS", timeout=within_seconds)
            except nats.errors.TimeoutError:
                return False
            return True

    class Permitting(NatsOfTheComponent):
        older_inbox = "_INBOX.*.*"

    assert not await answered(server, 1)
    async with Permitting.start(tmp_path / "permitting") as permitting:
        assert await answered(permitting, 30)


async def test_password_of_another_user_is_refused(server: NatsOfTheComponent) -> None:
    wrong = server.url_of("bot-runner-worker").replace(secret_of("bot-runner-worker"), secret_of("bot-runner-master"))
    readiness = Readiness()
    connection = NatsConnection(wrong, name="test", readiness=readiness)
    running = asyncio.create_task(connection.run())
    try:
        await eventually(lambda: "uthorization" in readiness.states[DEPENDENCY].detail)
    finally:
        running.cancel()
        await asyncio.wait([running])

    assert connection.generation == 0
