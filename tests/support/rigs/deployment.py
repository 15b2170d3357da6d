"""A whole service as users run it: real servers, a master and workers as separate processes, and access to them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from pymongo import AsyncMongoClient

from libs.core.process.service import BOT_RUNNER, ServiceDefinition
from tests.support.rigs.platform import Platform, platform
from tests.support.rigs.terminal import Terminal
from tests.support.servers.docker import remove_containers
from tools.dev.http import get_json
from tools.dev.service import ServiceProcess
from tools.engine.ensure import Engine
from tools.stack.mongod import MongoServer
from tools.stack.nats import NatsServer
from tools.stack.ports import free_port
from tools.stack.s3 import S3Server

PATIENT = {"LEASE_SECONDS": "30"}
"""Settings for tests that do not wait for a worker's death: on a loaded machine a worker may fail to renew a lease of
the usual length, and then its containers are others."""


@dataclass
class Deployment:
    """One service with its own servers. Ends everything that it started, containers too."""

    service: ServiceDefinition
    folder: Path
    mongod: MongoServer
    nats_server: NatsServer
    s3_server: S3Server
    engine: Engine
    platform: Platform
    mongo: AsyncMongoClient[dict[str, Any]]
    settings: Mapping[str, str] = field(default_factory=dict)
    grpc_port: int = field(default_factory=free_port)
    processes: dict[str, ServiceProcess] = field(default_factory=dict)

    def start_process(
        self, role: str, name: str, *, mode: str = "standalone", under: Sequence[str | Path] = (), **settings: str
    ) -> ServiceProcess:
        """Start a master or a worker called *name* without waiting for it.

        Args:
            under: a module with its arguments that runs the process's module, such as a tracer.
        """
        process = ServiceProcess(
            name,
            [self.service.name, role, "--worker-id", name, "--mode", mode],
            {**self._environment(), **self.settings, **settings},
            http_port=free_port(),
            log_path=self.folder / f"{name}.log",
            tethered=True,
        )
        at = process.process.command.index("-m") + 1
        process.process.command = [*process.process.command[:at], *under, *process.process.command[at:]]
        process.launch()
        self.processes[name] = process
        return process

    async def start(self, workers: int = 1, **settings: str) -> None:
        """Start a master and *workers* workers (`w1`, `w2` …) and wait until all are ready."""
        started = [self.start_process("master", "master", **settings)]
        started += [self.start_process("worker", f"w{number}", **settings) for number in range(1, workers + 1)]
        for process in started:
            await process.wait_ready()

    async def status(self, name: str) -> dict[str, Any]:
        """Return the status of a process."""
        answer = await get_json(self.processes[name].http_port, "/api/v1/status")
        return answer[1] if answer is not None and answer[0] == 200 else {}

    async def readiness(self, name: str) -> dict[str, Any]:
        """Return the dependencies in a process's `/readyz`; empty while it does not answer."""
        answer = await get_json(self.processes[name].http_port, "/readyz")
        return dict(answer[1]["dependencies"]) if answer is not None else {}

    async def document(self, entity_id: str) -> dict[str, Any] | None:
        """Return an entity's document."""
        return await self.mongo[self.service.database][self.service.collection].find_one({"id": entity_id})

    async def state(self, entity_id: str) -> str:
        """Return the state in an entity's document; empty without one."""
        document = await self.document(entity_id)
        return str(document.get("status", {}).get("state", "")) if document is not None else ""

    async def in_state(self, entity_id: str, state: str) -> bool:
        """Whether an entity's document has that state."""
        return await self.state(entity_id) == state

    async def scope(self) -> str:
        """Return the deployment's id, a label of its containers."""
        document = await self.mongo[self.service.database]["deployment"].find_one({})
        return str(document["id"]) if document is not None else ""

    async def containers(self, entity_id: str | None = None) -> list[dict[str, Any]]:
        """Return the engine's summaries of this deployment's running containers, of one entity or all."""
        labels = [f"runtime.scope={await self.scope()}"]
        if entity_id is not None:
            labels.append(f"runtime.id={entity_id}")
        client = docker.DockerClient(base_url=self.engine.url, timeout=60)
        try:
            return list(client.api.containers(filters={"label": labels}))
        finally:
            client.close()

    def output(self, container: Mapping[str, Any]) -> str:
        """Return the output of a container so far."""
        client = docker.DockerClient(base_url=self.engine.url, timeout=60)
        try:
            return bytes(client.api.logs(container["Id"])).decode(errors="replace")
        finally:
            client.close()

    async def running_with(self, entity_id: str, text: str) -> dict[str, Any] | None:
        """Return the entity's running container, once its output contains *text*; None before."""
        for container in await self.containers(entity_id):
            if text in self.output(container):
                return container
        return None

    def terminal(self) -> Terminal:
        """Return a terminal for commands against these servers."""
        return Terminal(self.folder / "home", self._environment())

    async def close(self) -> None:
        """End the processes and remove the containers."""
        scope = await self.scope() if self.mongod.running else ""
        for process in self.processes.values():
            await process.process.kill()
        if scope:
            remove_containers(self.engine, scope)

    def on_other_engine(self, url: str) -> dict[str, str]:
        """Return the settings of a worker on the engine at *url*, with folders of its own."""
        return {
            "DOCKER_HOST": url,
            "TEMP_DIR": str(self.folder / "other"),
            "KEEPALIVE_DIR": str(self.folder / "other-keepalive"),
        }

    def _environment(self) -> dict[str, str]:
        return {
            "MONGO_URI": self.mongod.uri,
            "NATS_URL": self.nats_server.url,
            "MINIO_ENDPOINT": self.s3_server.endpoint,
            "MINIO_ACCESS_KEY_ID": self.s3_server.access_key,
            "MINIO_SECRET_ACCESS_KEY": self.s3_server.secret_key,
            "TEMP_DIR": str(self.folder / "temp"),
            # Not the default folder in memory, which tests would leave behind.
            "KEEPALIVE_DIR": str(self.folder / "keepalive"),
            "SPEC_DIR": str(self.folder / "specs"),
            "MASTER_HOST": "127.0.0.1",
            "DOCKER_HOST": self.engine.url,
            "GRPC_PORT": str(self.grpc_port),
            "LOG_FORMAT": "json",
            # On another address the status page needs a token.
            "HTTP_HOST": "127.0.0.1",
        }


@asynccontextmanager
async def deployment(
    folder: Path,
    engine: Engine,
    *,
    service: ServiceDefinition = BOT_RUNNER,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Deployment]:
    """A deployment with its own servers, which a test may stop and kill, without processes."""
    async with AsyncExitStack() as stack:
        mongod = await stack.enter_async_context(MongoServer.start(folder / "mongod"))
        nats_server = await stack.enter_async_context(NatsServer.start(folder / "nats"))
        s3_server = await stack.enter_async_context(S3Server.start(folder / "s3"))
        client = await stack.enter_async_context(platform(nats_server, s3_server))
        mongo: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongod.uri, serverSelectionTimeoutMS=30_000)
        stack.push_async_callback(mongo.close)
        made = Deployment(
            service, folder, mongod, nats_server, s3_server, engine, client, mongo, settings=settings or {}
        )
        stack.push_async_callback(made.close)
        yield made
