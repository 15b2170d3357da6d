"""MongoDB, NATS and S3 servers with TLS, and certificates that are replaced while connections are in use."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from libs.core.config.connection_settings import MongoSettings, NatsSettings, StorageSettings
from libs.core.config.settings_loader import Group, SettingsError, load
from libs.core.events.connection import NatsConnection
from libs.core.http.health import Readiness
from libs.core.storage.errors import StorageUnavailable
from libs.core.storage.object_store import ObjectStore
from libs.core.store.client import Mongo, StoreUnavailable
from libs.core.transport.client_tls import ClientTls
from libs.core.transport.watched_files import FileRejected
from tests.support.certificates import Authority, Files
from tests.support.eventually import eventually
from tests.support.servers.tls_servers import TlsMongoServer, TlsNatsServer, TlsS3Server

LOCAL = ["127.0.0.1"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mongod_with_tls(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> AsyncIterator[TlsMongoServer]:
    files = authority.issue("mongod", addresses=LOCAL)
    async with TlsMongoServer.start_with(tmp_path_factory.mktemp("mongod"), files) as server:
        yield server


def environ(prefix: str, files: Files) -> dict[str, str]:
    return {
        f"{prefix}_TLS_CA_FILE": str(files.authority),
        f"{prefix}_TLS_CERT_FILE": str(files.certificate),
        f"{prefix}_TLS_KEY_FILE": str(files.key),
    }


def mongo_by(settings: MongoSettings) -> Mongo:
    return Mongo(settings.uri, timeout_seconds=2, tls=ClientTls.of("MONGO", settings))


async def test_mongodb_with_tls_is_reached_by_settings_and_with_replaced_certificates(
    tmp_path: Path, mongod_with_tls: TlsMongoServer, authority: Authority, stranger: Authority
) -> None:
    own, foreign = authority.issue("mongo-client", "client"), stranger.issue("mongo-client", "client")
    (tmp_path / "uri").write_text(f"{mongod_with_tls.bare_uri}\n")
    settings = load(MongoSettings, environ={"MONGO_URI_FILE": str(tmp_path / "uri"), **environ("MONGO", own)})
    # The server trusts no certificate of the stranger, which is replaced by one that it trusts.
    own.key.write_bytes(foreign.key.read_bytes())
    own.certificate.write_bytes(foreign.certificate.read_bytes())
    mongo = mongo_by(settings)
    following = asyncio.create_task(mongo.follow_files(0.1))
    try:
        with pytest.raises(StoreUnavailable):
            await mongo.ping()
        own.replace_by(authority.issue("mongo-client-2", "client"))

        await eventually(lambda: _works(mongo))
    finally:
        following.cancel()
        await asyncio.wait([following])
        await mongo.close()


async def _works(mongo: Mongo) -> bool:
    await mongo.ping()
    return True


async def test_mongodb_server_of_another_authority_is_not_trusted(
    mongod_with_tls: TlsMongoServer, authority: Authority, stranger: Authority
) -> None:
    files = {
        **environ("MONGO", authority.issue("mongo-client-3", "client")),
        "MONGO_TLS_CA_FILE": str(stranger.certificate),
    }
    mongo = mongo_by(load(MongoSettings, environ={"MONGO_URI": mongod_with_tls.bare_uri, **files}))
    try:
        with pytest.raises(StoreUnavailable, match="certificate verify failed"):
            await mongo.ping()
    finally:
        await mongo.close()


async def test_nats_with_tls_is_reached_and_reconnects_with_replaced_certificates_and_address(
    tmp_path: Path, authority: Authority
) -> None:
    url_file = tmp_path / "url"
    url_file.write_text("nats://127.0.0.1:9")
    own = authority.issue("nats-client", "client")
    async with TlsNatsServer.start_with(tmp_path / "nats", authority.issue("nats", addresses=LOCAL)) as server:
        settings = load(NatsSettings, environ={"NATS_URL_FILE": str(url_file), **environ("NATS", own)})
        connection = NatsConnection.of(settings, name="test", readiness=Readiness())
        assert connection is not None
        running = asyncio.create_task(connection.run())
        try:
            url_file.write_text(server.url)
            await asyncio.wait_for(connection.wait_connected(), 60)
            own.replace_by(authority.issue("nats-client-2", "client"))
            await server.kill()
            await eventually(lambda: not connection.connected)
            await server.launch()

            await eventually(lambda: connection.connected)
        finally:
            running.cancel()
            await asyncio.wait([running])


async def test_nats_without_a_client_certificate_is_refused(tmp_path: Path, authority: Authority) -> None:
    async with TlsNatsServer.start_with(tmp_path / "nats", authority.issue("nats", addresses=LOCAL)) as server:
        ca = {"NATS_URL": server.url, "NATS_TLS_CA_FILE": str(authority.certificate)}
        readiness = Readiness()
        connection = NatsConnection.of(load(NatsSettings, environ=ca), name="test", readiness=readiness)
        assert connection is not None
        running = asyncio.create_task(connection.run())
        try:
            await eventually(lambda: "connecting to" not in readiness.states["nats"].detail)
            assert not connection.connected
        finally:
            running.cancel()
            await asyncio.wait([running])


async def test_storage_with_tls_is_reached_with_keys_and_authorities_that_are_replaced(
    tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    ca = tmp_path / "ca"
    ca.write_bytes(stranger.certificate.read_bytes())
    keys = {"MINIO_ACCESS_KEY_ID_FILE": tmp_path / "key", "MINIO_SECRET_ACCESS_KEY_FILE": tmp_path / "secret"}
    for file in keys.values():
        file.write_text("former-key")
    async with TlsS3Server.start_with(tmp_path / "s3", authority.issue("s3", addresses=LOCAL)) as server:
        found = {
            "MINIO_ENDPOINT": server.endpoint,
            "MINIO_USE_SSL": "true",
            "MINIO_TLS_CA_FILE": str(ca),
            **{name: str(path) for name, path in keys.items()},
        }
        store = ObjectStore(load(StorageSettings, environ=found))
        try:
            with pytest.raises(StorageUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                await store.ensure_bucket("bots")
            ca.write_bytes(authority.certificate.read_bytes())
            with pytest.raises(Exception, match="MINIO_ACCESS_KEY_ID"):
                await store.ensure_bucket("bots")
            keys["MINIO_ACCESS_KEY_ID_FILE"].write_text(server.access_key)
            keys["MINIO_SECRET_ACCESS_KEY_FILE"].write_text(f"{server.secret_key}\n")

            await store.ensure_bucket("bots")
            await store.put("bots", "k", b"content")
            assert await store.get("bots", "k") == b"content"
        finally:
            await store.close()


@pytest.mark.parametrize("prefix", ["MONGO", "NATS", "MINIO"])
def test_certificate_without_its_key_is_a_wrong_setting(prefix: str) -> None:
    groups: dict[str, type[Group]] = {"MONGO": MongoSettings, "NATS": NatsSettings, "MINIO": StorageSettings}
    keys = {"MINIO_ACCESS_KEY_ID": "k", "MINIO_SECRET_ACCESS_KEY": "k"}

    with pytest.raises(SettingsError, match=f"{prefix}_TLS_CERT_FILE and {prefix}_TLS_KEY_FILE belong together"):
        load(groups[prefix], environ={f"{prefix}_TLS_CERT_FILE": "/c", **keys})


def test_missing_file_of_a_connection_string_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"MONGO_URI_FILE='.*absent' cannot be read"):
        load(MongoSettings, environ={"MONGO_URI_FILE": str(tmp_path / "absent")})


def test_connection_string_itself_has_precedence_over_its_file(tmp_path: Path) -> None:
    (tmp_path / "uri").write_text("mongodb://file")

    settings = load(MongoSettings, environ={"MONGO_URI_FILE": str(tmp_path / "uri"), "MONGO_URI": "mongodb://value"})

    assert settings.uri == SecretStr("mongodb://value")


def test_invalid_certificate_of_a_server_connection_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("nothing")

    with pytest.raises(FileRejected, match="MONGO_TLS_CA_FILE: it has no valid PEM certificates"):
        ClientTls.of("MONGO", MongoSettings(tls_ca_file=str(tmp_path / "ca")))
