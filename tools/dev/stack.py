"""A complete stack on this machine: the embedded servers and all three services."""

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, BOT_SCHEDULER, SERVICES, ServiceDefinition
from libs.core.store.client import Mongo
from libs.core.store.deployment import deployment_id
from tools.dev import state as states
from tools.dev.containers import Containers
from tools.dev.service import ServiceProcess
from tools.dev.state import Part, StackState
from tools.engine.ensure import Engine
from tools.stack.mongod import MongoServer
from tools.stack.nats import NatsServer
from tools.stack.ports import free_port, is_free
from tools.stack.process_identity import ProcessIdentity
from tools.stack.s3 import S3Server
from tools.stack.server import EmbeddedServer

Report = Callable[[str], None]

_SERVERS: Mapping[str, type[EmbeddedServer]] = {"mongod": MongoServer, "nats": NatsServer, "s3": S3Server}
_RUN_HERE = (BOT_RUNNER, BACKTEST_RUNNER, BOT_SCHEDULER)
_GRPC: Mapping[str, str] = {
    BOT_RUNNER.name: "grpc",
    BACKTEST_RUNNER.name: "backtest-grpc",
    BOT_SCHEDULER.name: "scheduler-grpc",
}
# One worker owns one segment, so here one must own all backtests, and another one all schedules.
_ONE_SEGMENT = {service.max_per_partition_env: "1000" for service in (BACKTEST_RUNNER, BOT_SCHEDULER)}
_HTTP = "-http"
_BOT_WORKER = f"{BOT_RUNNER.name}-worker-"
_WORKERS = 2
_GRACE_SECONDS = 20.0
# For a worker whose bots may use their whole grace period.
_HANDOVER_SECONDS = 60.0


class Stack:
    """The stack whose data and state are in *directory*.

    Args:
        tethered: its processes are killed when this process dies; otherwise they outlive it.
        workers: number of bot-runner workers; None for as many as already run, or two.
        settings: settings of the services, in addition to the servers' addresses.
    """

    def __init__(
        self, directory: Path, *, tethered: bool, workers: int | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self._tethered = tethered
        self._settings = dict(settings or {})
        self._started: list[ServiceProcess] = []
        self.state = states.load(directory)
        self._workers = workers if workers is not None else self._workers_up or _WORKERS

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings with which the servers are reached."""
        return self.state.environment

    def reserve_ports(self) -> None:
        """Choose all ports, the last ones where they are free, so that parts may start at once."""
        ports = dict(self.state.ports)
        running = {part.name for part in self.state.parts if part.process.alive}
        masters = {_GRPC[_definition(name).name] for name in running if name.endswith("master")}
        names = [*_SERVERS, *_GRPC.values(), *(f"{name}{_HTTP}" for name in self._service_names)]
        for name in names:
            ours = name in masters or name.removesuffix(_HTTP) in running
            if name not in ports or not (ours or is_free(ports[name])):
                ports[name] = free_port()
        self._remember(ports=ports, environment=self._addresses(ports))

    async def start_servers(self) -> None:
        """Start the servers that do not run, concurrently, with their last data.

        Raises:
            ProcessFailedError: one did not start; the message shows the end of its log.
        """
        async with asyncio.TaskGroup() as tasks:
            for name in _SERVERS:
                if not self._runs(name):
                    tasks.create_task(self._start_server(name), name=f"start {name}")
        self._remember(scopes=await self._scopes())

    def launch_services(self) -> None:
        """Start the master and the workers that do not run. They may be started before the servers answer."""
        for name in self._service_names:
            if not self._runs(name):
                service = self._service(name)
                service.launch()
                self._started.append(service)
                self._add(name, service.process.identity, service.process.log_path, service.http_port)

    async def wait_ready(self, service: ServiceDefinition | None = None) -> None:
        """Return when the started processes are ready: those of *service*, or all of them.

        Raises:
            ProcessFailedError: one ended or was not ready in time; the message has the reason.
        """
        async with asyncio.TaskGroup() as tasks:
            for process in self._started:
                if service is None or _definition(process.name) is service:
                    tasks.create_task(process.wait_ready(), name=f"wait for {process.name}")
        if not self._tethered:
            for process in self._started:
                process.process.forget()

    async def stop_surplus(self, grace_seconds: float = _HANDOVER_SECONDS) -> list[str]:
        """Stop the excess workers in order, and forget those that ended before.

        Call it when the others are ready: they take over the segments. Returns the names of the stopped ones.
        """
        wanted = {*_SERVERS, *self._service_names}
        surplus = [part for part in self.state.parts if part.name not in wanted]
        running = [part for part in surplus if part.process.alive]
        async with asyncio.TaskGroup() as tasks:
            for part in running:
                tasks.create_task(part.process.stop(grace_seconds), name=f"stop {part.name}")
        self._remember(parts=tuple(part for part in self.state.parts if part.name in wanted))
        return [part.name for part in running]

    async def stop(self, engine: Engine | None, *, grace_seconds: float = _GRACE_SECONDS) -> None:
        """Stop the services, then their remaining containers, then the servers. May be repeated.

        Args:
            engine: the engine of the containers; None if none was ever reached.
        """
        services = [part for part in self.state.parts if part.name not in _SERVERS]
        # Workers first: they stop their bots while the master and the servers still run.
        services.sort(key=lambda part: part.name.endswith("master"))
        async with asyncio.TaskGroup() as tasks:
            for part in services:
                tasks.create_task(part.process.stop(grace_seconds), name=f"stop {part.name}")
        if engine is not None:
            async with Containers(engine.url, self.state.scopes, self.directory) as containers:
                await containers.remove_all()
        async with asyncio.TaskGroup() as tasks:
            for part in self.state.parts:
                if part.name in _SERVERS:
                    tasks.create_task(part.process.stop(grace_seconds), name=f"stop {part.name}")
        self._remember(parts=())

    def purge(self) -> None:
        """Remove the data. The stack must be down."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.state = StackState()

    @property
    def _workers_up(self) -> int:
        """Return how many workers of bot-runner run."""
        return sum(part.name.startswith(_BOT_WORKER) and part.process.alive for part in self.state.parts)

    @property
    def _service_names(self) -> list[str]:
        workers = (f"{_BOT_WORKER}{number}" for number in range(1, self._workers + 1))
        masters = (f"{service.name}-master" for service in _RUN_HERE)
        return [*masters, *workers, f"{BACKTEST_RUNNER.name}-worker-1", f"{BOT_SCHEDULER.name}-worker-1"]

    def _runs(self, name: str) -> bool:
        part = self.state.part(name)
        return part is not None and part.process.alive

    def _service(self, name: str) -> ServiceProcess:
        definition = _definition(name)
        grpc_port = self.state.ports[_GRPC[definition.name]]
        settings = {
            **self.environment,
            **_ONE_SEGMENT,
            "MODE": "standalone",
            "MASTER_HOST": f"127.0.0.1:{grpc_port}",
            "GRPC_PORT": str(grpc_port),
            "HTTP_HOST": "127.0.0.1",
            "TEMP_DIR": str(self.directory / "temp"),
            "WORKER_ID": name.removeprefix(f"{BOT_RUNNER.name}-"),
            "LOG_FORMAT": "json",
            **self._settings,
        }
        return ServiceProcess(
            name,
            [definition.name, "master" if name.endswith("master") else "worker"],
            settings,
            http_port=self.state.ports[f"{name}{_HTTP}"],
            log_path=self.directory / "logs" / f"{name}.log",
            tethered=self._tethered,
        )

    async def _start_server(self, name: str) -> None:
        server = _SERVERS[name](self.directory / name, self.state.ports[name], tethered=self._tethered)
        await server.launch()
        self._add(name, server.identity, server.log_path, None)
        if not self._tethered:
            server.leave_running()

    def _addresses(self, ports: Mapping[str, int]) -> dict[str, str]:
        return {
            "MONGO_URI": MongoServer(self.directory, ports["mongod"]).uri,
            "NATS_URL": NatsServer(self.directory, ports["nats"]).url,
            "MINIO_ENDPOINT": S3Server(self.directory, ports["s3"]).endpoint,
            "MINIO_ACCESS_KEY_ID": S3Server.access_key,
            "MINIO_SECRET_ACCESS_KEY": S3Server.secret_key,
            "MINIO_USE_SSL": "false",
        }

    async def _scopes(self) -> tuple[str, ...]:
        mongo = Mongo(self.environment["MONGO_URI"], timeout_seconds=10)
        try:
            return tuple([await deployment_id(mongo.database(service.database)) for service in SERVICES])
        finally:
            await mongo.close()

    def _add(self, name: str, process: ProcessIdentity, log: Path, http_port: int | None) -> None:
        others = tuple(part for part in self.state.parts if part.name != name)
        port = self.state.ports[_GRPC[_definition(name).name] if http_port is not None else name]
        self._remember(parts=(*others, Part(name, process, port, str(log), http_port)))

    def _remember(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]
        states.save(self.directory, self.state)


def _definition(name: str) -> ServiceDefinition:
    """Return the service of the process with this name."""
    return next((service for service in _RUN_HERE if name.startswith(service.name)), BOT_RUNNER)
