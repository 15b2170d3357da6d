"""A whole stack on this machine: the embedded servers, a master and workers of bot-runner."""

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from libs.core.service import BOT_RUNNER, SERVICES
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
_GRACE_SECONDS = 20.0


class Stack:
    """The stack whose data and state are in *directory*.

    Args:
        tethered: its processes are killed when this process dies; otherwise they outlive it.
        settings: of the services, beside where the servers are.
    """

    def __init__(
        self, directory: Path, *, tethered: bool, workers: int = 2, settings: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self._tethered = tethered
        self._workers = workers
        self._settings = dict(settings or {})
        self.state = states.load(directory)

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings under which the servers are reached."""
        return self.state.environment

    async def start_servers(self) -> None:
        """Start those servers that do not run, all at once, with the ports and data of last time.

        Raises:
            ProcessFailedError: one did not start; the message shows the end of its log.
        """
        async with asyncio.TaskGroup() as tasks:
            for name in _SERVERS:
                part = self.state.part(name)
                if part is None or not part.process.alive:
                    tasks.create_task(self._start_server(name), name=f"start {name}")
        self._remember(environment=self._addresses())
        self._remember(scopes=await self._scopes())

    async def start_services(self) -> None:
        """Start the master and the workers that do not run, and return when all are ready.

        Raises:
            ProcessFailedError: one ended or was not ready in time; the message says why.
        """
        grpc_port = self._port("grpc")
        names = ["bot-runner-master", *(f"bot-runner-worker-{number}" for number in range(1, self._workers + 1))]
        starting = []
        for name in names:
            part = self.state.part(name)
            if part is None or not part.process.alive:
                starting.append(self._service(name, grpc_port))
        for service in starting:
            service.launch()
            self._add(service.name, service.process.identity, grpc_port, service.process.log_path, service.http_port)
        async with asyncio.TaskGroup() as tasks:
            for service in starting:
                tasks.create_task(service.wait_ready(), name=f"wait for {service.name}")
        if not self._tethered:
            for service in starting:
                service.process.forget()

    async def stop(self, engine: Engine | None, *, grace_seconds: float = _GRACE_SECONDS) -> None:
        """Stop the services, then what is left of their containers, then the servers. Safe to repeat.

        Args:
            engine: where the containers are; None when no engine was ever reached.
        """
        services = [part for part in self.state.parts if part.name not in _SERVERS]
        # Workers first: they stop their bots while the master and the servers are still there.
        services.sort(key=lambda part: part.name.endswith("master"))
        async with asyncio.TaskGroup() as tasks:
            for part in services:
                tasks.create_task(part.process.stop(grace_seconds), name=f"stop {part.name}")
        if engine is not None and self.state.scopes:
            async with Containers(engine.url, self.state.scopes) as containers:
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

    def _service(self, name: str, grpc_port: int) -> ServiceProcess:
        role = "master" if name.endswith("master") else "worker"
        settings = {
            **self.environment,
            "MODE": "standalone",
            "MASTER_HOST": f"127.0.0.1:{grpc_port}",
            "GRPC_PORT": str(grpc_port),
            "HTTP_HOST": "127.0.0.1",
            "TEMP_DIR": str(self.directory / "temp"),
            "WORKER_ID": name.removeprefix("bot-runner-"),
            "LOG_FORMAT": "json",
            **self._settings,
        }
        return ServiceProcess(
            name,
            [BOT_RUNNER.name, role],
            settings,
            http_port=self._port(f"{name}-http"),
            log_path=self.directory / "logs" / f"{name}.log",
            tethered=self._tethered,
        )

    async def _start_server(self, name: str) -> None:
        remembered = self.state.ports.get(name)
        port = remembered if remembered is not None and is_free(remembered) else None
        server = _SERVERS[name](self.directory / name, port, tethered=self._tethered)
        await server.launch()
        self._remember(ports={**self.state.ports, name: server.port})
        self._add(name, server.identity, server.port, server.log_path, None)
        if not self._tethered:
            server.leave_running()

    def _port(self, name: str) -> int:
        remembered = self.state.ports.get(name)
        if remembered is not None and is_free(remembered):
            return remembered
        if name == "grpc" and any(part.process.alive for part in self.state.parts if part.name not in _SERVERS):
            return self.state.ports[name]  # taken by our own master
        port = free_port()
        self._remember(ports={**self.state.ports, name: port})
        return port

    def _addresses(self) -> dict[str, str]:
        ports = self.state.ports
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

    def _add(self, name: str, process: ProcessIdentity, port: int, log: Path, http_port: int | None) -> None:
        others = tuple(part for part in self.state.parts if part.name != name)
        self._remember(parts=(*others, Part(name, process, port, str(log), http_port)))

    def _remember(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]
        states.save(self.directory, self.state)
