"""Faults: each knows how to begin, how to end, and which workers cannot run bots meanwhile.

`catalogue` has one of each name of `schedule.py`, with targets chosen by a random source. A new fault is a name there,
a line in the catalogue, and if necessary a class.
"""

import asyncio
import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import docker
from nats.js.errors import NotFoundError
from pymongo.errors import PyMongoError

from tests.chaos.replica_set import Member
from tests.chaos.schedule import CLOCK, FAMILIES, HOW, WORKER_CLOCK
from tests.chaos.world import ENGINES, Process, World
from tests.support.faults.full_disk import DiskBusy, fill_disk, free_disk
from tests.support.faults.tcp_proxy import TcpProxy
from tests.support.rigs.platform import STREAM
from tests.support.servers.mongo_clock import LIBRARIES, faked_clock
from tools.stack.process import ProcessFailedError
from tools.stack.server import EmbeddedServer

_SLOW_SECONDS = 0.2
_FLAP_SECONDS = 1.0
_JUMP_LEASES = 2.0
_STEP_DOWN_SECONDS = 10
_READY_SECONDS = 60.0
_FILL_SECONDS = 0.3
# Signatures of requests to S3 are valid for a quarter of an hour.
_AHEAD_SECONDS = 600.0


class Fault(ABC):
    """One fault.

    Attributes:
        name: what happens, as in `schedule.py`.
        unfit: the names of workers that cannot run bots while it lasts.
        blocks: whether no worker at all can be expected to start a bot meanwhile.
    """

    unfit: frozenset[str] = frozenset()
    blocks: bool = False

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    async def begin(self, world: World) -> None:
        """Break something."""

    @abstractmethod
    async def end(self, world: World) -> None:
        """Undo it, and start again what has ended."""


class _OfProcesses(Fault):
    """A fault of processes."""

    def __init__(self, name: str, processes: Sequence[Process], *, blocks: bool = False) -> None:
        super().__init__(name)
        self._processes = processes
        self.unfit = _names(processes)
        self.blocks = blocks


class Killed(_OfProcesses):
    """Processes get SIGKILL, and are started again at the end."""

    async def begin(self, world: World) -> None:
        await asyncio.gather(*(one.process.kill() for one in self._processes))

    async def end(self, world: World) -> None:
        for one in self._processes:
            if not one.process.running:  # another fault may have started it again
                one.process.launch()


class Restarted(Killed):
    """Processes get SIGTERM, as in a rollout, and are started again at the end."""

    async def begin(self, world: World) -> None:
        await asyncio.gather(*(one.process.stop(grace_seconds=60) for one in self._processes))


class RestartedInTurn(_OfProcesses):
    """Processes are restarted one after another, each when the one before is ready, as in a rollout."""

    async def begin(self, world: World) -> None:
        for one in self._processes:
            await one.process.stop(grace_seconds=60)
            one.process.launch()
            with contextlib.suppress(ProcessFailedError):  # under a second fault
                await one.service_process.wait_ready(_READY_SECONDS)

    async def end(self, world: World) -> None:
        for one in self._processes:
            if not one.process.running:
                one.process.launch()


class ClockAhead(_OfProcesses):
    """A worker is restarted with another time of day, and at the end with the true one."""

    async def begin(self, world: World) -> None:
        for one in self._processes:
            await self._restart(one, faked_clock(_AHEAD_SECONDS))

    async def end(self, world: World) -> None:
        for one in self._processes:
            await self._restart(one, {})

    async def _restart(self, one: Process, clock: Mapping[str, str]) -> None:
        await one.process.stop(grace_seconds=60)
        true = {name: value for name, value in (one.process.environment or {}).items() if name not in faked_clock(0)}
        one.process.environment = {**true, **clock}
        if not one.process.running:
            one.process.launch()


class Frozen(_OfProcesses):
    """Processes get SIGSTOP, and SIGCONT at the end."""

    async def begin(self, world: World) -> None:
        for one in self._processes:
            one.process.pause()

    async def end(self, world: World) -> None:
        for one in self._processes:
            one.process.resume()


class LeaderFrozen(Fault):
    """The master that leads gets SIGSTOP."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._frozen: Process | None = None

    async def begin(self, world: World) -> None:
        self._frozen = await world.leader() or world.masters()[0]
        self._frozen.process.pause()

    async def end(self, world: World) -> None:
        assert self._frozen is not None
        self._frozen.process.resume()


class LinkBroken(Fault):
    """Links are cut, swallow everything, hold back answers, are slow, or flap."""

    def __init__(
        self, what: str, how: str, links: Sequence[TcpProxy], unfit: Sequence[Process], *, blocks: bool = False
    ) -> None:
        super().__init__(f"{what}: {how}")
        self._how = how
        self._links = links
        self.unfit = frozenset() if how == "slow" else _names(unfit)
        self.blocks = blocks and how != "slow"
        self._flapping: asyncio.Task[None] | None = None

    async def begin(self, world: World) -> None:
        if self._how == "flapping":
            self._flapping = asyncio.create_task(self._flap(), name=self.name)
            return
        for link in self._links:
            match self._how:
                case "cut":
                    await link.cut()
                case "black hole":
                    link.hold_back()
                case "answers held back":
                    link.hold_back_answers()
                case _:
                    link.slow_down(_SLOW_SECONDS)

    async def end(self, world: World) -> None:
        if self._flapping is not None:
            self._flapping.cancel()
            await asyncio.wait([self._flapping])
        for link in self._links:
            link.let_through()

    async def _flap(self) -> None:
        while True:
            for link in self._links:
                await link.cut()
            await asyncio.sleep(_FLAP_SECONDS)
            for link in self._links:
                link.let_through()
            await asyncio.sleep(_FLAP_SECONDS)


class EngineFault(Fault):
    """An engine is frozen, with or without its containerd, or killed; or its containerd is killed."""

    def __init__(self, name: str, engine: str, workers: Sequence[Process]) -> None:
        super().__init__(name)
        self._engine = engine
        self.unfit = _names(workers)

    async def begin(self, world: World) -> None:
        engine = world.engines[self._engine]
        match self.name:
            case "engine frozen":
                engine.freeze()
            case "containerd frozen":
                engine.freeze_containerd()
            case "engine and containerd frozen":
                engine.freeze(containerd=True)
            case "engine killed":
                await engine.stop(9)
            case _:
                await engine.kill_containerd()

    async def end(self, world: World) -> None:
        engine = world.engines[self._engine]
        match self.name:
            case "engine killed":
                await engine.start()
            case "containerd killed":
                await engine.start_containerd()
            case _:
                engine.thaw()


class MemberDown(Fault):
    """Members of the replica set are killed or frozen; with the primary among them, another one is elected."""

    blocks = True

    def __init__(self, name: str, *, frozen: bool, count: int = 1, primary: bool = True) -> None:
        super().__init__(name)
        self._frozen = frozen
        self._count = count
        self._primary = primary
        self._down: list[Member] = []
        self.blocks = primary or count > 1

    async def begin(self, world: World) -> None:
        primary = await world.mongo.primary()
        others = [member for member in world.mongo.members if member is not primary]
        self._down = ([primary, *others] if self._primary else others)[: self._count]
        for member in self._down:
            if self._frozen:
                member.pause()
            else:
                await member.kill()

    async def end(self, world: World) -> None:
        for member in self._down:
            if self._frozen:
                member.resume()
            else:
                await member.launch()
        await world.mongo.primary()


class StepDown(Fault):
    """The primary steps down, as before its maintenance."""

    blocks = True

    async def begin(self, world: World) -> None:
        client = await world.mongo.client()
        with contextlib.suppress(PyMongoError):  # it may close the connection
            await client.admin.command({"replSetStepDown": _STEP_DOWN_SECONDS, "force": True})

    async def end(self, world: World) -> None:
        await world.mongo.primary()


class ClockJump(Fault):
    """The primary's clock jumps forward, and back at the end."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._member: Member | None = None

    async def begin(self, world: World) -> None:
        self._member = await world.mongo.primary()
        self._member.set_ahead(_JUMP_LEASES * world.lease_seconds)

    async def end(self, world: World) -> None:
        assert self._member is not None
        self._member.set_ahead(0.0)


class ServerDown(Fault):
    """NATS or S3 is killed or frozen."""

    def __init__(
        self, name: str, server: Callable[[World], EmbeddedServer], *, frozen: bool, blocks: bool = False
    ) -> None:
        super().__init__(name)
        self._server = server
        self._frozen = frozen
        self.blocks = blocks

    async def begin(self, world: World) -> None:
        if self._frozen:
            self._server(world).pause()
        else:
            await self._server(world).kill()

    async def end(self, world: World) -> None:
        if self._frozen:
            self._server(world).resume()
        else:
            await self._server(world).launch()


class _DiskFull(Fault):
    """A disk stays full: what is removed from it leaves no room either."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._filling: asyncio.Task[None] | None = None

    @abstractmethod
    async def fill(self, world: World) -> None:
        """Leave no free byte. May be repeated."""

    @abstractmethod
    async def free(self, world: World) -> None:
        """Make room, and start again what has ended."""

    async def begin(self, world: World) -> None:
        await self.fill(world)
        self._filling = asyncio.create_task(self._keep(world), name=self.name)

    async def end(self, world: World) -> None:
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait([self._filling])
        await self.free(world)

    async def _keep(self, world: World) -> None:
        while True:
            await asyncio.sleep(_FILL_SECONDS)
            with contextlib.suppress(DiskBusy):
                await self.fill(world)


class EngineDiskFull(_DiskFull):
    """The disk with an engine's data is full."""

    def __init__(self, name: str, engine: str, workers: Sequence[Process]) -> None:
        super().__init__(name)
        self._engine = engine
        self.unfit = _names(workers)

    async def fill(self, world: World) -> None:
        await world.engines[self._engine].fill_disk()

    async def free(self, world: World) -> None:
        await world.engines[self._engine].free_disk()


class ServerDiskFull(_DiskFull):
    """The disk of a server is full; when there is room again, the server is restarted."""

    def __init__(self, name: str, server: Callable[[World], EmbeddedServer], *, blocks: bool = False) -> None:
        super().__init__(name)
        self._server = server
        self.blocks = blocks

    async def fill(self, world: World) -> None:
        await asyncio.to_thread(fill_disk, self._server(world).directory)

    async def free(self, world: World) -> None:
        server = self._server(world)
        await asyncio.to_thread(free_disk, server.directory)
        await server.kill()
        await server.launch()


class PrimaryDiskFull(_DiskFull):
    """The disk of MongoDB's primary is full, which ends it; another member is elected. It is started with room."""

    blocks = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._member: Member | None = None

    async def fill(self, world: World) -> None:
        self._member = self._member or await world.mongo.primary()
        await asyncio.to_thread(fill_disk, self._member.directory)

    async def free(self, world: World) -> None:
        assert self._member is not None
        await asyncio.to_thread(free_disk, self._member.directory)
        if not self._member.running:
            await self._member.launch()
        await world.mongo.primary()


class StreamRecreated(Fault):
    """The stream is deleted and created again, several times, as the platform's API does when it starts."""

    async def begin(self, world: World) -> None:
        with contextlib.suppress(NotFoundError):
            await world.platform.client.jetstream(timeout=30).delete_stream(STREAM)
        await world.platform.ensure_stream()

    async def end(self, world: World) -> None:
        await self.begin(world)


class Paused(Fault):
    """The bots of an engine are paused, as by an operator, and go on at the end."""

    blocks = True

    def __init__(self, name: str, engine: str) -> None:
        super().__init__(name)
        self._engine = engine

    async def begin(self, world: World) -> None:
        await asyncio.to_thread(_pause, world.engines[self._engine].url)

    async def end(self, world: World) -> None:
        await asyncio.to_thread(_unpause, world.engines[self._engine].url)


class PausedBeyondLease(Fault):
    """The bots of an engine are paused and its workers frozen; at the end the bots go on first."""

    def __init__(self, name: str, engine: str, workers: Sequence[Process]) -> None:
        super().__init__(name)
        self._engine = engine
        self._workers = workers
        self.unfit = _names(workers)

    async def begin(self, world: World) -> None:
        await asyncio.to_thread(_pause, world.engines[self._engine].url)
        for one in self._workers:
            one.process.pause()

    async def end(self, world: World) -> None:
        await asyncio.to_thread(_unpause, world.engines[self._engine].url)
        for one in self._workers:
            one.process.resume()


class WorkFoldersFull(Fault):
    """The disk with the work folders of an engine's workers has no free byte."""

    def __init__(self, name: str, engine: str, workers: Sequence[Process]) -> None:
        super().__init__(name)
        self._engine = engine
        self.unfit = _names(workers)

    async def begin(self, world: World) -> None:
        await asyncio.to_thread(_fill, world.disks[self._engine] / "filler")

    async def end(self, world: World) -> None:
        (world.disks[self._engine] / "filler").unlink(missing_ok=True)


def catalogue(world: World, chance: random.Random) -> list[Fault]:
    """Return one of each fault, with targets chosen by *chance*."""
    engine = chance.choice(ENGINES)
    of_engine = world.workers(engine)
    worker = chance.choice(world.workers())
    member = chance.choice(world.mongo.members)
    mongo, masters = tuple(world.mongo.servers), tuple(one.name for one in world.masters(None))
    every_worker = world.workers(service=None)
    faults: list[Fault] = [
        Killed("worker killed", [worker]),
        Killed("an engine's workers killed", world.workers(engine, None)),
        Killed("all masters killed", world.masters(None), blocks=True),
        Restarted("worker restarted", [worker]),
        Restarted("an engine's workers restarted", world.workers(engine, None)),
        Restarted("bots' workers restarted", world.workers()),
        RestartedInTurn("bots' workers restarted in turn", world.workers()),
        RestartedInTurn("masters restarted in turn", world.masters(None)),
        *([ClockAhead(WORKER_CLOCK, [worker])] if LIBRARIES else []),
        Frozen("all masters frozen", world.masters(None), blocks=True),
        Frozen("worker frozen", [worker]),
        Frozen("an engine's workers frozen", world.workers(engine, None)),
        LeaderFrozen("leading master frozen"),
        *(EngineFault(name, engine, of_engine) for name in FAMILIES["engine"]),
        MemberDown("primary killed", frozen=False),
        MemberDown("primary frozen", frozen=True),
        MemberDown("secondary killed", frozen=False, primary=False),
        MemberDown("secondary frozen", frozen=True, primary=False),
        MemberDown("majority of MongoDB frozen", frozen=True, count=2),
        StepDown("primary steps down"),
        *([ClockJump(CLOCK)] if LIBRARIES else []),
        ServerDown("NATS killed", lambda made: made.nats_server, frozen=False),
        ServerDown("NATS frozen", lambda made: made.nats_server, frozen=True),
        ServerDown("S3 killed", lambda made: made.s3_server, frozen=False, blocks=True),
        ServerDown("S3 frozen", lambda made: made.s3_server, frozen=True, blocks=True),
        StreamRecreated("stream re-created"),
        PausedBeyondLease("bots paused and workers frozen", engine, of_engine),
        Paused("bots paused", engine),
        WorkFoldersFull("disk full", engine, of_engine),
        EngineDiskFull("engine's disk full", engine, of_engine),
        PrimaryDiskFull("primary's disk full"),
        ServerDiskFull("NATS's disk full", lambda made: made.nats_server),
        ServerDiskFull("S3's disk full", lambda made: made.s3_server, blocks=True),
    ]
    links: Mapping[str, tuple[list[TcpProxy], list[Process], bool]] = {
        "worker to MongoDB": (worker.party.to(mongo), [worker], False),
        "worker to its engine": (worker.party.to(["engine"]), [worker], False),
        "worker to masters": (worker.party.to(masters), [worker], False),
        "an engine's workers to everything else": (_outside(of_engine), of_engine, False),
        "all workers to NATS": (_links(every_worker, ["nats"]), [], False),
        "all workers to S3": (_links(every_worker, ["s3"]), [], True),
        "masters to MongoDB": (_links(world.masters(None), mongo), [], True),
        "a member to the others": (list(member.party.links.values()), [], True),
    }
    for how in HOW:
        faults += [LinkBroken(what, how, broken, unfit, blocks=b) for what, (broken, unfit, b) in links.items()]
    return faults


def _names(processes: Iterable[Process]) -> frozenset[str]:
    return frozenset(one.name for one in processes if one.role == "worker")


def _links(processes: Iterable[Process], servers: Iterable[str]) -> list[TcpProxy]:
    names = list(servers)
    return [link for one in processes for link in one.party.to(names)]


def _outside(processes: Iterable[Process]) -> list[TcpProxy]:
    return [link for one in processes for name, link in one.party.links.items() if name != "engine"]


def _pause(url: str) -> None:
    client = docker.DockerClient(base_url=url, timeout=30)
    try:
        for container in client.containers.list(filters={"label": "runtime.id"}, ignore_removed=True):
            with contextlib.suppress(docker.errors.APIError):  # it ends at this moment
                container.pause()
    finally:
        client.close()


def _unpause(url: str) -> None:
    client = docker.DockerClient(base_url=url, timeout=30)
    try:
        for container in client.containers.list(filters={"status": "paused"}, ignore_removed=True):
            with contextlib.suppress(docker.errors.APIError):  # it was killed meanwhile
                container.unpause()
    finally:
        client.close()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
