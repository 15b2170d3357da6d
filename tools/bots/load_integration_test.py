"""A load published to a real NATS server is what the runtime reads."""

import asyncio
from pathlib import Path

import pytest

from libs.core.events.connection import NatsConnection
from libs.core.events.jetstream import JetStream
from libs.core.events.payload import Place, read_event
from libs.core.store.history import EventKind
from tests.support.rigs.platform import platform
from tools.bots.announce import Announcer, Deployment, deployment
from tools.bots.folder import read_folder
from tools.bots.load import BOT, Driver, Kind, Load
from tools.stack.nats import NatsServer
from tools.stack.s3 import S3Server


@pytest.mark.parametrize("kind", list(Kind))
async def test_published_events_are_read_by_runtime(kind: Kind, s3_server: S3Server, tmp_path: Path) -> None:
    load = Load(kind, "r", count=3, per_second=100, hold_seconds=0.1)

    def deploy(number: int) -> Deployment:
        return deployment(load.id_of(number), read_folder(BOT), load.config(), "load.zip", known=None)

    async with NatsServer.start(tmp_path) as server, platform(server, s3_server) as api:
        await api.ensure_stream()
        heard = await api.client.subscribe(kind.service.created_subject)
        await api.client.flush()
        connection = NatsConnection(server.url, name="load")
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(connection.run())
            await connection.wait_connected()
            announcer = Announcer(JetStream(connection), kind.service)
            progress = await Driver(load, announcer, deploy, lambda _: None).run()
            running.cancel()
        created = [(await heard.next_msg(timeout=20)).data for _ in range(load.count)]

    events = [read_event(EventKind.CREATED, data, {}, Place(1, 1, 1)) for data in created]
    assert [event.id for event in events] == [load.id_of(number) for number in range(load.count)]
    assert (progress.created, progress.failed) == (load.count, 0)
