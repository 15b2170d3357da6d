"""The servers that commands use: from the environment's settings, or else from the running dev stack."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click
from pydantic import SecretStr

from libs.core.config.connection_settings import MongoSettings, NatsSettings, StorageSettings
from libs.core.config.coordination_settings import LeaseSettings, PartitionSettings
from libs.core.config.misspelt_settings import misspelt
from libs.core.config.process_settings import HttpSettings, LogSettings
from libs.core.config.quota_settings import QuotaSettings
from libs.core.config.retention_settings import RetentionSettings
from libs.core.config.settings_loader import Group, SettingsError, load
from libs.core.observability.log import configure
from libs.core.process.service import ServiceDefinition
from libs.core.store.client import Database, Mongo, StoreUnavailable
from libs.core.store.entities import EntityStore
from libs.core.store.entity_writer import Derive
from libs.core.store.leases import LeaseStore
from libs.core.store.ownership import OwnershipReader
from libs.core.store.partitions import PartitionStore
from libs.core.transport.client_tls import ClientTls
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.dev import state
from tools.dev.home import home

if TYPE_CHECKING:  # imported where used: slow, and most commands need neither
    from libs.core.events.connection import NatsConnection
    from libs.core.events.jetstream import JetStream
    from libs.core.storage.object_store import ObjectStore

G = TypeVar("G", bound=Group)

_ADDRESSES = ("MONGO_URI", "NATS_URL", "MINIO_ENDPOINT")
_NATS_SECONDS = 3.0
_LEASES_SECONDS = 10.0


@dataclass(frozen=True)
class Target:
    """The settings of the servers, and a description of their source."""

    environment: Mapping[str, str]
    found_in: str
    scopes: tuple[str, ...] = ()
    is_default: bool = False
    """Whether no server is configured and no stack runs here."""


def target(environ: Mapping[str, str] = os.environ) -> Target:
    """Return the environment's settings if it names a server, else those of a running dev stack."""
    if any(environ.get(name) for name in _ADDRESSES):
        return Target(environ, "the environment")
    directory = home(environ) / "dev"
    stack = state.load(directory)
    if stack.running:
        return Target({**environ, **stack.environment}, f"the dev stack in {directory}", stack.scopes)
    found_in = "the defaults, because MONGO_URI is not set and no stack runs; `runtime dev up` starts one"
    return Target(environ, found_in, is_default=True)


class Connections:
    """The servers of a target, connected on first use."""

    def __init__(self, where: Target, stack: contextlib.AsyncExitStack) -> None:
        self.target = where
        self._stack = stack
        self._mongo: Mongo | None = None
        self._nats: NatsConnection | None = None
        self._storage: ObjectStore | None = None

    async def database(self, service: ServiceDefinition) -> Database:
        """Return the service's database.

        Raises:
            Failure: MongoDB does not answer; the message names the address and its source.
        """
        if self._mongo is None:
            settings = self._load(MongoSettings)
            tls = ClientTls.of("MONGO", settings)
            self._mongo = Mongo(settings.uri, timeout_seconds=settings.timeout_seconds, tls=tls)
            self._stack.push_async_callback(self._mongo.close)
            try:
                await self._mongo.ping()
            except StoreUnavailable as error:
                raise self._unreachable(str(error)) from error
        return self._mongo.database(service.database)

    async def entities(self, service: ServiceDefinition, derive: Derive | None = None) -> EntityStore:
        """Return the service's entities; *derive* for writes without an event. Errors as database()."""
        database = await self.database(service)
        limit = load(PartitionSettings, environ=self.target.environment, service=service).max_per_partition
        return EntityStore(
            database, service.collection, PartitionStore(database, service.collection, limit), derive=derive
        )

    async def leases(self, service: ServiceDefinition) -> LeaseStore:
        """Return the leases of the service's segments, for reading. Errors as database()."""
        life_seconds = load(LeaseSettings, environ=self.target.environment).life_seconds
        return LeaseStore(await self.database(service), life_seconds, timeout_seconds=_LEASES_SECONDS)

    async def owners(self, service: ServiceDefinition) -> OwnershipReader:
        """Return the owners of the service's segments. Errors as database()."""
        return OwnershipReader(await self.database(service))

    @property
    def http_token(self) -> SecretStr | None:
        """The token of the processes' HTTP servers, if they need one."""
        return self._load(HttpSettings).token

    @property
    def has_nats(self) -> bool:
        """Whether the target names a NATS server."""
        return self._load(NatsSettings).url is not None

    async def nats(self) -> "NatsConnection":
        """Return the connection to NATS.

        Raises:
            Failure: the target has no NATS server, or it does not answer.
        """
        from libs.core.events.connection import NatsConnection

        if self._nats is None:
            connection = NatsConnection.of(self._load(NatsSettings), name="runtime command")
            if connection is None and self.target.is_default:
                raise _no_servers()
            if connection is None:
                raise Failure(f"NATS_URL is not set ({self.target.found_in})", ExitCode.USAGE)
            running = asyncio.create_task(connection.run(), name="nats")
            self._stack.push_async_callback(_end, running)
            try:
                await asyncio.wait_for(connection.wait_connected(), _NATS_SECONDS)
            except TimeoutError:
                raise self._unreachable(f"NATS did not respond within {_NATS_SECONDS:g} s") from None
            self._nats = connection
        return self._nats

    async def jetstream(self) -> "JetStream":
        """Return JetStream over that connection. Errors as nats()."""
        from libs.core.events.jetstream import JetStream

        return JetStream(await self.nats())

    async def nats_if_up(self) -> "NatsConnection | None":
        """Return the connection, or None when there is no NATS or it does not answer."""
        try:
            return await self.nats() if self.has_nats else None
        except Failure:
            return None

    def retention_settings(self) -> RetentionSettings:
        """Return the retention of the target's settings; masters may have other settings."""
        return self._load(RetentionSettings)

    def quota_settings(self) -> QuotaSettings:
        """Return the quotas of owners. Errors as storage_settings()."""
        return self._load(QuotaSettings)

    def storage_settings(self) -> StorageSettings:
        """Return the settings of the storage.

        Raises:
            SettingsError: the environment's settings are invalid.
            Failure: no server is configured, and no stack runs.
        """
        return self._load(StorageSettings)

    def storage(self) -> "ObjectStore":
        """Return the object storage. Errors as storage_settings()."""
        from libs.core.storage.object_store import ObjectStore

        if self._storage is None:
            self._storage = ObjectStore(self.storage_settings(), threads=2)
            self._stack.push_async_callback(self._storage.close)
        return self._storage

    def _load(self, group: type[G]) -> G:
        try:
            return load(group, environ=self.target.environment)
        except SettingsError:
            if self.target.is_default:
                raise _no_servers() from None
            raise

    def _unreachable(self, reason: str) -> Failure:
        return Failure(
            f"{reason} (its address is from {self.target.found_in})",
            ExitCode.UNREACHABLE,
        )


@contextlib.asynccontextmanager
async def connected(where: Target | None = None) -> AsyncIterator[Connections]:
    """The servers of *where*, or of target(); all connections are closed after the block."""
    # Logs of libraries are for operators; a command reports its own errors.
    configure(LogSettings(format="console", level="error"), service="command", role="command", worker="-")
    warn_of_misspelt()
    async with contextlib.AsyncExitStack() as stack:
        yield Connections(where or target(), stack)


def _no_servers() -> Failure:
    return Failure(
        "no stack runs here, and no server is configured; start a stack with `runtime dev up`, or set "
        f"{', '.join(_ADDRESSES)} to use other servers",
        ExitCode.UNREACHABLE,
    )


def warn_of_misspelt(environ: Mapping[str, str] = os.environ) -> None:
    """Print on standard error which variables look like settings but are none."""
    for given, nearest in misspelt(environ).items():
        click.echo(f"warning: {given} is not a setting and is ignored; did you mean {nearest}?", err=True)


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
