"""The world in which faults happen: two Docker engines, all servers, three services, and a proxy before every link."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nats
from minio import Minio

from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, BOT_SCHEDULER, ServiceDefinition
from tests.chaos.party import Party
from tests.chaos.replica_set import Member, ReplicaSet
from tests.support.faults.full_disk import disk
from tests.support.rigs.platform import Platform
from tests.support.servers.own_engine import OwnEngine, own_engine
from tools.dev.http import get_json
from tools.dev.service import ServiceProcess
from tools.engine.ensure import ensure_engine
from tools.images.ensure import ensure_images
from tools.stack.nats import NatsServer
from tools.stack.ports import free_port
from tools.stack.process import BackgroundProcess
from tools.stack.s3 import S3Server

LEASE_SECONDS = 5.0
DISK_MB = 96
_READY_SECONDS = 400.0
_SETTINGS = {
    "MAX_BOTS_PER_PARTITION": "2",
    "MEMORY_LIMIT_MB": "128",
    "BOT_STOP_SECONDS": "2",
    "LOG_FORMAT": "json",
    "GRPC_TOKEN": "a-token-for-the-chaos-of-tests",
}
_LAYOUT = ((BOT_RUNNER, 2, 2), (BACKTEST_RUNNER, 1, 1), (BOT_SCHEDULER, 1, 1))
"""Masters, and workers for each engine."""
ENGINES = ("engine-1", "engine-2")


@dataclass
class Process:
    """A master or a worker, with its links."""

    name: str
    service: ServiceDefinition
    role: str
    engine: str
    party: Party
    service_process: ServiceProcess

    @property
    def process(self) -> BackgroundProcess:
        """The process itself."""
        return self.service_process.process

    async def is_ready(self) -> bool:
        """Whether its `/readyz` says so."""
        answer = await get_json(self.service_process.http_port, "/readyz")
        return answer is not None and answer[0] == 200


@dataclass
class World:
    """All that runs, by name. Faults change it; nothing here repairs it.

    Attributes:
        disks: the small disk with the work folders of each engine's workers.
    """

    folder: Path
    engines: dict[str, OwnEngine]
    disks: dict[str, Path]
    mongo: ReplicaSet
    nats_server: NatsServer
    s3_server: S3Server
    platform: Platform
    source: Sequence[Path] = ()
    lease_seconds: float = LEASE_SECONDS
    settings: Mapping[str, str] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)

    def workers(self, engine: str | None = None, service: ServiceDefinition | None = BOT_RUNNER) -> list[Process]:
        """Return the workers of a service (None: of all), on one engine or on both."""
        return [
            one
            for one in self.processes.values()
            if one.role == "worker" and service in (None, one.service) and engine in (None, one.engine)
        ]

    def masters(self, service: ServiceDefinition | None = BOT_RUNNER) -> list[Process]:
        """Return the masters of a service; None: of all."""
        return [one for one in self.processes.values() if one.role == "master" and service in (None, one.service)]

    async def leader(self) -> Process | None:
        """Return the master that leads the bots' service, if one says so."""
        for master in self.masters():
            answer = await get_json(master.service_process.http_port, "/api/v1/status")
            if answer is not None and answer[0] == 200 and answer[1].get("leads"):
                return master
        return None

    async def start_processes(self) -> None:
        """Start all masters and workers, and wait until they are ready."""
        for service, masters, workers in _LAYOUT:
            ports = {f"{service.name}-master-{index + 1}": free_port() for index in range(masters)}
            for name in ports:
                await self._start(name, service, "master", "", ports)
            for engine in ENGINES:
                for index in range(workers):
                    await self._start(f"{service.name}-{engine}-worker-{index + 1}", service, "worker", engine, ports)
        await asyncio.gather(*(one.service_process.wait_ready(_READY_SECONDS) for one in self.processes.values()))

    async def close(self) -> None:
        """End all processes."""
        for one in self.processes.values():
            one.process.resume()
        await asyncio.gather(*(one.process.kill() for one in self.processes.values()))
        for one in self.processes.values():
            await one.party.close()

    async def _start(
        self, name: str, service: ServiceDefinition, role: str, engine: str, masters: Mapping[str, int]
    ) -> None:
        party = Party(name, len(self.mongo.members) + len(self.processes) + 1, self.folder)
        servers = {**self.mongo.servers, "nats": self.nats_server.port, "s3": self.s3_server.port, **masters}
        await party.link(servers)
        settings = {
            **_SETTINGS,
            "LEASE_SECONDS": f"{self.lease_seconds:g}",
            "DEATH_TIMEOUT_SECONDS": f"{self.lease_seconds:g}",
            **self.settings,
            "MONGO_URI": self.mongo.uri,
            "NATS_URL": f"nats://{party.address}:{self.nats_server.port}",
            "MINIO_ENDPOINT": f"{party.address}:{self.s3_server.port}",
            "MINIO_ACCESS_KEY_ID": self.s3_server.access_key,
            "MINIO_SECRET_ACCESS_KEY": self.s3_server.secret_key,
            "MASTER_SERVICE": ",".join(f"{master}:{port}" for master, port in masters.items()),
            "HTTP_HOST": "127.0.0.1",
        }
        if role == "master":
            settings |= {"GRPC_HOST": name, "GRPC_PORT": str(masters[name])}
        else:
            settings |= {
                "DOCKER_HOST": await party.link_engine(self.engines[engine].url),
                "TEMP_DIR": str(self.disks[engine] / service.name),
                "KEEPALIVE_DIR": str(self.folder / f"{engine}-keepalive"),
                "SPEC_DIR": str(self.folder / f"{engine}-specs"),
            }
        started = ServiceProcess(
            name,
            [service.name, role, "--worker-id", name, "--mode", "cluster"],
            settings,
            http_port=free_port(),
            log_path=self.folder / f"{name}.log",
            tethered=True,
        )
        environment = dict(started.process.environment or {})
        environment["PYTHONPATH"] = ":".join([*map(str, self.source), environment["PYTHONPATH"]])
        started.process.environment = environment
        started.process.command = party.command(started.process.command)
        started.launch()
        self.processes[name] = Process(name, service, role, engine, party, started)


@asynccontextmanager
async def world(
    folder: Path,
    *,
    lease_seconds: float,
    source: Sequence[Path] = (),
    settings: Mapping[str, str] | None = None,
    settable_clocks: bool = False,
) -> AsyncIterator[World]:
    """The world with all processes ready.

    Args:
        source: folders with the code that masters and workers run, before this checkout's own.
        settings: of all masters and workers.
        settable_clocks: whether the clocks of MongoDB's servers can be set.
    """
    async with AsyncExitStack() as stack:
        disks = {name: stack.enter_context(disk(folder / f"{name}-disk", f"size={DISK_MB}m")) for name in ENGINES}
        machine = await ensure_engine()
        await ensure_images(machine)
        parties = [Party(f"mongo-{number}", number, folder) for number in (1, 2, 3)]
        for server in ("nats", "s3", *(one.name for one in parties)):
            stack.enter_context(disk(folder / server))
        mongo = ReplicaSet([Member(one, folder / one.name, settable=settable_clocks) for one in parties])
        stack.push_async_callback(mongo.close)
        engines = {
            name: await stack.enter_async_context(own_engine(machine, images=["python:3.11-slim"], gvisor=False))
            for name in ENGINES
        }
        nats_server = await stack.enter_async_context(NatsServer.start(folder / "nats"))
        s3_server = await stack.enter_async_context(S3Server.start(folder / "s3"))
        await mongo.open()
        client = await nats.connect(
            nats_server.url, reconnect_time_wait=0.1, max_reconnect_attempts=-1, error_cb=_expected
        )
        stack.push_async_callback(client.close)
        storage = Minio(
            s3_server.endpoint, access_key=s3_server.access_key, secret_key=s3_server.secret_key, secure=False
        )
        platform = Platform(client, storage)
        await platform.ensure_stream()
        made = World(
            folder, engines, disks, mongo, nats_server, s3_server, platform, source, lease_seconds, settings or {}
        )
        stack.push_async_callback(made.close)
        await made.start_processes()
        yield made


async def _expected(error: Exception) -> None:
    """Ignore an error of the connection: faults of NATS cause it, and the client connects again."""
