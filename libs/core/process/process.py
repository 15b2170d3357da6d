"""The common parts of every process: settings, log, health, HTTP, MongoDB, and an ordered shutdown."""

import asyncio
import gc
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, TypeVar

from aiohttp import web

from libs.core.aio.coalescing import coalesce_wakeups
from libs.core.config.connection_settings import MongoSettings
from libs.core.config.coordination_settings import IdentitySettings
from libs.core.config.misspelt_settings import misspelt
from libs.core.config.process_settings import HttpSettings, LogSettings, TracingSettings
from libs.core.config.settings_loader import SettingsError, load_all
from libs.core.errors import UserError
from libs.core.http.app import HttpApp
from libs.core.http.health import Readiness
from libs.core.observability.health_metrics import ReadinessCollector
from libs.core.observability.log import configure, get_logger
from libs.core.observability.metrics import PROCESS, measure_loop_lag, registry
from libs.core.observability.tracing import add_trace_ids
from libs.core.process.lifecycle import Lifecycle
from libs.core.process.service import ServiceDefinition
from libs.core.store.client import Database, Mongo, uri_file_of
from libs.core.transport.client_tls import ClientTls
from libs.core.transport.expiry import certificate_files_of, watch_expiry

log = get_logger(__name__)

EXIT_USAGE = 2
"""A setting, a flag or a file is wrong; the user must correct it."""


class TracingMisconfigured(UserError):
    """One of OpenTelemetry's variables is invalid."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"traces cannot be exported: {reason}; correct the OTEL_ variables, or unset the endpoint")


@dataclass(frozen=True)
class ProcessSettings:
    """The settings of every process; a role's settings are a subclass with more groups."""

    identity: IdentitySettings
    log: LogSettings
    http: HttpSettings
    mongo: MongoSettings
    tracing: TracingSettings


S = TypeVar("S", bound=ProcessSettings)


@dataclass(frozen=True)
class Process:
    """The parts that a role builds on."""

    service: ServiceDefinition
    lifecycle: Lifecycle
    readiness: Readiness
    http: HttpApp
    mongo: Mongo
    lease_mongo: Mongo

    @property
    def database(self) -> Database:
        """The service's database."""
        return self.mongo.database(self.service.database)

    @property
    def lease_database(self) -> Database:
        """The same database over connections that serve leases alone."""
        return self.lease_mongo.database(self.service.database)


class Role(Protocol[S]):
    """The work of a process. Created for each process, before any dependency can be reached."""

    name: str
    """``master`` or ``worker``."""

    settings: type[S]
    """Its settings."""

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """Return its HTTP routes besides health and metrics; called before `build`, requests may arrive before it."""

    async def build(self, process: Process, settings: S) -> None:
        """Declare the role's parts and shutdown steps. It may wait for dependencies without a limit."""


def run_process(service: ServiceDefinition, role: Role[S], flags: Mapping[str, object]) -> int:
    """Run one process until it must stop, and return its exit code."""
    try:
        settings = load_all(role.settings, flags, service=service)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USAGE
    configure(
        settings.log,
        processors=(add_trace_ids,),
        service=service.name,
        role=role.name,
        worker=settings.identity.worker_id,
    )
    for given, nearest in misspelt(os.environ).items():
        log.warning("unknown setting is ignored; is it misspelt?", variable=given, nearest=nearest)
    PROCESS.info({"service": service.name, "role": role.name, "version": runtime_version()})
    try:
        return asyncio.run(_run(service, role, settings))
    except UserError as error:
        log.error("cannot start", reason=str(error))  # noqa: TRY400 - its message says it all
        return EXIT_USAGE


async def _run(service: ServiceDefinition, role: Role[S], settings: S) -> int:
    coalesce_wakeups()
    close_traces = _export_traces(service, role, settings)
    readiness = Readiness()
    registry.register(ReadinessCollector(readiness))
    http = HttpApp(settings.http, readiness)
    http.add_routes(role.routes())
    tls = ClientTls.of("MONGO", settings.mongo)
    uri, timeout_seconds, uri_file = settings.mongo.uri, settings.mongo.timeout_seconds, uri_file_of(settings.mongo)
    mongo = Mongo(uri, timeout_seconds=timeout_seconds, tls=tls, uri_file=uri_file)
    lease_mongo = Mongo.for_leases(uri, timeout_seconds=timeout_seconds, tls=tls, uri_file=uri_file)
    lifecycle = Lifecycle()
    process = Process(service, lifecycle, readiness, http, mongo, lease_mongo)
    readiness.expect("start", "the process is starting")
    # First of all, so that /readyz shows what it waits for.
    await http.start()

    async def start() -> None:
        await mongo.wait_until_up(readiness)
        await role.build(process, settings)
        settle_memory()
        readiness.report("start", True)
        await mongo.watch(readiness)

    lifecycle.part("start", start)
    lifecycle.part("event loop lag", measure_loop_lag)
    if files := certificate_files_of(settings):
        lifecycle.part("ends of certificates", lambda: watch_expiry(files))
    if tls is not None or uri_file is not None:
        lifecycle.part("files for mongodb", mongo.follow_files)
        lifecycle.part("files for leases", lease_mongo.follow_files)
    lifecycle.on_close("http", http.close, limit_seconds=3)
    lifecycle.on_close("mongodb", mongo.close, limit_seconds=3)
    lifecycle.on_close("mongodb for leases", lease_mongo.close, limit_seconds=3)
    if close_traces is not None:
        lifecycle.on_close("traces", close_traces, limit_seconds=5)
    return await lifecycle.run()


def _export_traces(service: ServiceDefinition, role: Role[S], settings: S) -> Callable[[], Awaitable[None]] | None:
    """Start exporting traces if configured, and return the flush function. Otherwise nothing is imported."""
    if not settings.tracing.exporting:
        return None
    try:
        from libs.core.observability.trace_export import Origin, TraceExport

        origin = Origin(service.name, role.name, settings.identity.worker_id, runtime_version())
        export = TraceExport(settings.tracing, origin)
        export.start()
    except Exception as error:
        # A malformed time, an unknown propagator: the libraries read their variables themselves.
        raise TracingMisconfigured(str(error)) from error
    return export.close


def settle_memory() -> None:
    """Exclude all present objects (modules, classes, settings) from garbage collection.

    They live as long as the process, and scanning them blocks it for up to 0.1 s each time: a firing that is due
    at that moment would be late, and so would a heartbeat.
    """
    gc.collect()
    gc.freeze()


def runtime_version() -> str:
    """Return the version of this build; ``dev`` when it runs from a checkout."""
    try:
        return version("the0-runtime")
    except PackageNotFoundError:
        return "dev"
