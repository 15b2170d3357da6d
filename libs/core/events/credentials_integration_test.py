"""A connection by credentials to a real nats-server that trusts an operator."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from libs.core.config.connection_settings import NatsSettings
from libs.core.config.settings_loader import load
from libs.core.events.connection import DEPENDENCY, Message, NatsConnection
from libs.core.http.health import Readiness
from tests.support.eventually import eventually
from tests.support.servers.nats_accounts import AccountsNatsServer


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AccountsNatsServer]:
    async with AccountsNatsServer.start(tmp_path_factory.mktemp("nats")) as started:
        yield started


@contextlib.asynccontextmanager
async def connection_of(server: AccountsNatsServer, **files: Path) -> AsyncIterator[tuple[NatsConnection, Readiness]]:
    readiness = Readiness()
    settings = load(NatsSettings, environ={"NATS_URL": server.url, **{name: str(path) for name, path in files.items()}})
    connection = NatsConnection.of(settings, name="test", readiness=readiness)
    assert connection is not None
    running = asyncio.create_task(connection.run())
    try:
        yield connection, readiness
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_user_of_the_file_is_let_in_with_the_rights_that_its_jwt_grants(
    tmp_path: Path, server: AccountsNatsServer
) -> None:
    file = tmp_path / "user.creds"
    file.write_text(server.credentials(publish=["allowed"]))
    received: list[str] = []

    async def note(message: Message) -> None:
        received.append(message.subject)

    async with connection_of(server, NATS_CREDS_FILE=file) as (connection, _):
        await connection.wait_connected()
        await connection.subscribe("*", note)
        await connection.publish("forbidden")
        await connection.publish("allowed")
        await eventually(lambda: received)

    assert received == ["allowed"]


async def test_connection_without_credentials_is_refused(server: AccountsNatsServer) -> None:
    async with connection_of(server) as (connection, readiness):
        await eventually(lambda: "connecting to" not in readiness.states[DEPENDENCY].detail)

        assert not connection.connected


async def test_replaced_file_is_used_for_the_next_connection(tmp_path: Path, server: AccountsNatsServer) -> None:
    file = tmp_path / "user.creds"
    file.write_text(server.credentials(expires_in_seconds=-60))
    async with connection_of(server, NATS_CREDS_FILE=file) as (connection, readiness):
        await eventually(lambda: "uthorization" in readiness.states[DEPENDENCY].detail)
        written = tmp_path / "new"
        written.write_text(server.credentials())
        written.replace(file)

        await eventually(lambda: connection.connected)
