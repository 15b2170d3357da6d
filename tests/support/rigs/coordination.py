"""Masters and workers of one service in this process, with a real MongoDB and simulated containers.

Such a container lives from its start until it is stopped, or until the last keepalive of its worker expires,
like a real one with its dead-man's switch.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from libs.core.config.coordination_settings import CoordinationSettings
from libs.core.coordination import Assignment, HeldSegment, WorkerIdentity, WorkerState
from libs.core.http.health import Readiness
from libs.core.leases.lease import Holder, Lease, LeaseView, SegmentView
from libs.core.leases.lease_keeper import LeaseTiming
from libs.core.master.master import Master
from libs.core.queries.messages import Answerer
from libs.core.room import Demand, Room
from libs.core.store.client import Database, StoreUnavailable
from libs.core.store.cordons import CordonStore
from libs.core.store.leases import LeadershipStore, LeaseStore
from libs.core.store.processes import ProcessStore
from libs.core.transport.worker_key import WorkerKey
from libs.core.worker.handler import OwnedSegment
from libs.core.worker.session import MasterSession
from libs.core.worker.worker import EngineFolders, EngineView, Worker
from tools.stack.ports import free_port

PATIENT_LIFE_SECONDS = 60.0
"""A lease's life for tests that do not wait for its end: on a loaded machine a process may fail to renew shorter
ones. An effect that is seen long before its end did not depend on it."""
PATIENT_DEATH_SECONDS = 60.0
"""The same for the death timeout of workers."""
AT_ONCE_SECONDS = 40.0
"""An effect within this time did not depend on the end of a lease or a death timeout."""
SHORT_LIFE_SECONDS = 3.0
"""A lease's life for tests that wait for its end; they must not rely on a held one."""
RENEW_SECONDS = 0.3
HEARTBEAT_SECONDS = 0.1
SWITCH_MARGIN_SECONDS = 0.1


@dataclass
class FakeContainer:
    """One container of a segment: an interval on the monotonic clock. *epoch* is the epoch of its start."""

    segment_id: int
    host: str
    epoch: int
    started: float
    alive_until: float
    """The deadline of its dead-man's switch, extended by every renewal."""
    stopped: float | None = None

    @property
    def ended(self) -> float:
        """Its end in the past or future, as far as known."""
        return min(self.alive_until, self.stopped if self.stopped is not None else float("inf"))

    @property
    def alive(self) -> bool:
        """Whether it runs now."""
        return time.monotonic() < self.ended


class World:
    """All containers that ever ran, on all hosts."""

    def __init__(self) -> None:
        self.containers: list[FakeContainer] = []

    def alive(self, segment_id: int, host: str | None = None) -> list[FakeContainer]:
        """Return the running containers of a segment."""
        return [
            container
            for container in self.containers
            if container.segment_id == segment_id and container.alive and host in (None, container.host)
        ]

    def check_law(self) -> None:
        """Assert that no segment ever had two containers at one instant."""
        by_segment: dict[int, list[FakeContainer]] = {}
        for container in self.containers:
            by_segment.setdefault(container.segment_id, []).append(container)
        for containers in by_segment.values():
            containers.sort(key=lambda container: container.started)
            for earlier, later in itertools.pairwise(containers):
                assert earlier.ended <= later.started, f"two at once: {earlier} {later}"


@dataclass
class FakeHandler:
    """Runs one container for each of its segments, and records its calls."""

    world: World
    host: str
    calls: list[str] = field(default_factory=list)
    failing_stops: int = 0
    """How many of the next calls of stop_all fail."""
    stop_seconds: float = 0.0
    failing_runs: int = 0
    impediment: str = ""
    listeners: list[Callable[[], None]] = field(default_factory=list)
    """Called by the test after a change of the impediment, which is otherwise reported with the next heartbeat."""
    lost: bool = False
    """Whether the engine does not answer, so that stops through it fail."""
    unwritable: set[int] = field(default_factory=set)
    """Segments whose keepalive cannot be written."""
    demands: dict[int, Demand] = field(default_factory=dict)
    failing_demands: set[int] = field(default_factory=set)
    """Segments whose demand raises an exception."""
    room: Room | None = None

    async def run(self, owned: OwnedSegment) -> None:
        """See SegmentHandler."""
        self.calls.append(f"run {owned.segment_id}/{owned.epoch}")
        if self.failing_runs > 0:
            self.failing_runs -= 1
            raise RuntimeError("the handler fails, as the test requires")
        while True:
            now = time.monotonic()  # before the proof is read: the process may freeze in between
            if owned.proven() and not self.world.alive(owned.segment_id, self.host):
                deadline = owned.lease.proven_until - SWITCH_MARGIN_SECONDS
                container = FakeContainer(owned.segment_id, self.host, owned.epoch, now, deadline)
                self.world.containers.append(container)
            await owned.wake.wait_at_most(0.02)

    async def renewed(self, lease: Lease) -> None:
        """See SegmentHandler."""
        if lease.segment_id in self.unwritable:
            raise OSError("no space left on device, as the test requires")
        assert lease.proven_until > time.monotonic()
        for container in self.world.alive(lease.segment_id, self.host):
            container.alive_until = lease.proven_until - SWITCH_MARGIN_SECONDS

    async def stop_all(self, owned: OwnedSegment, grace_seconds: float) -> None:
        """See SegmentHandler."""
        self.calls.append(f"stop {owned.segment_id}/{owned.epoch}")
        if self.lost:
            await asyncio.Event().wait()
        if self.failing_stops > 0:
            self.failing_stops -= 1
            raise RuntimeError("the engine does not answer, as the test requires")
        await asyncio.sleep(min(self.stop_seconds, grace_seconds))
        for container in self.world.alive(owned.segment_id, self.host):
            container.stopped = time.monotonic()

    async def promise_ends(self, owned: OwnedSegment, grace_seconds: float) -> float | None:
        """See SegmentHandler."""

    def leave(self, owned: OwnedSegment) -> None:
        """See SegmentHandler."""
        self.calls.append(f"leave {owned.segment_id}/{owned.epoch}")

    async def expire(self, owned: OwnedSegment) -> None:
        """See SegmentHandler."""
        for container in self.world.alive(owned.segment_id, self.host):
            container.alive_until = min(container.alive_until, time.monotonic())

    def demand(self, segment_id: int) -> Demand:
        """See SegmentHandler."""
        if segment_id in self.failing_demands:
            raise RuntimeError("the demand cannot be computed, as the test requires")
        return self.demands.get(segment_id, Demand())

    def running(self) -> int:
        """See SegmentHandler."""
        return sum(container.alive and container.host == self.host for container in self.world.containers)


class CutLeases(LeaseStore):
    """Leases with faults: those in *cut* cannot be renewed, as without a database, and others not be acquired."""

    def __init__(self, database: Database, life_seconds: float) -> None:
        super().__init__(database, life_seconds)
        self.cut: set[int] = set()
        self.broken: set[int] = set()
        """Segments whose acquisition raises an unexpected exception."""
        self.failing_surveys = 0
        """How many of the next surveys raise such an exception."""

    async def survey(self, *, timeout_seconds: float | None = None) -> list[SegmentView]:
        """See LeaseStore."""
        if self.failing_surveys > 0:
            self.failing_surveys -= 1
            raise TypeError("a document is of another shape, as the test requires")
        return await super().survey(timeout_seconds=timeout_seconds)

    async def acquire(
        self,
        segment_id: int,
        holder: Holder,
        *,
        former: LeaseView | None = None,
        timeout_seconds: float | None = None,
    ) -> Lease:
        """See LeaseStore."""
        if segment_id in self.broken:
            raise TypeError("the document is of another shape, as the test requires")
        return await super().acquire(segment_id, holder, former=former, timeout_seconds=timeout_seconds)

    async def renew(self, lease: Lease, *, timeout_seconds: float | None = None) -> Lease:
        """See LeaseStore."""
        if lease.segment_id in self.cut:
            raise StoreUnavailable("no answer, as the test requires")
        return await super().renew(lease, timeout_seconds=timeout_seconds)


@dataclass
class RunningMaster:
    """A master in this process."""

    master: Master
    readiness: Readiness
    task: "asyncio.Task[None]"

    async def stop(self) -> None:
        """End it in order: it resigns."""
        await _cancelled(self.task)


@dataclass
class RunningWorker:
    """A worker in this process."""

    worker: Worker
    handler: FakeHandler
    readiness: Readiness
    task: "asyncio.Task[None]"

    @property
    def owns(self) -> list[int]:
        """The segments that it owns now, sorted."""
        return sorted(self.worker.segments)

    async def leave(self) -> None:
        """End it in order: it releases its segments first."""
        await self.worker.drain()
        await _cancelled(self.task)

    async def kill(self) -> None:
        """End it like kill -9: nothing is stopped or released, the stream breaks."""
        await _cancelled(self.task)


class FalseWorker:
    """A registered worker without any lease; *assigned* is what the master assigned to it last."""

    def __init__(self) -> None:
        self.assigned: frozenset[int] = frozenset()
        self.task: asyncio.Task[None] | None = None

    def accept(self, assignment: Assignment) -> None:
        """Take the assignment, and do nothing."""
        self.assigned = assignment.segments


class Cluster:
    """Masters and workers on one database, from running_cluster()."""

    def __init__(
        self,
        database: Database,
        masters: int,
        life_seconds: float,
        death_seconds: float,
        target: int,
        heartbeat_seconds: float,
    ) -> None:
        self.database = database
        self.target = target
        self.life_seconds = life_seconds
        self.death_seconds = death_seconds
        self.heartbeat_seconds = heartbeat_seconds
        self.world = World()
        self.leases = LeaseStore(database, life_seconds)
        self.cordons = CordonStore(database)
        self.processes = ProcessStore(database)
        self._timing = LeaseTiming.of(life_seconds, RENEW_SECONDS)
        self.ports = [free_port() for _ in range(masters)]
        self._started: list[RunningMaster | RunningWorker] = []
        self._instances = 0
        self._false: list[FalseWorker] = []

    async def segments(self, bot_counts: dict[int, int]) -> None:
        """Create these segments with so many entities each."""
        for segment_id, bot_count in bot_counts.items():
            await self.database["partitions"].update_one(
                {"_id": segment_id}, {"$set": {"bot_count": bot_count}}, upsert=True
            )

    def master(
        self, number: int = 0, while_leading: Sequence[tuple[str, Callable[[], Awaitable[None]]]] = ()
    ) -> RunningMaster:
        """Start a master on the port of that number."""
        readiness = Readiness()
        self._instances += 1
        name = f"master-{number}"
        master = Master(
            segments=self.leases,
            leadership=LeadershipStore(self.database, self.life_seconds),
            cordons=self.cordons,
            processes=self.processes,
            holder=Holder(name, f"{name}-{self._instances}", "master-host"),
            settings=coordination_settings(self.death_seconds, self.target, self.heartbeat_seconds),
            timing=self._timing,
            address=f"127.0.0.1:{self.ports[number]}",
            readiness=readiness,
            while_leading=while_leading,
        )
        running = RunningMaster(master, readiness, asyncio.create_task(master.run(), name=name))
        self._started.append(running)
        return running

    def worker(
        self,
        name: str,
        *,
        host: str | None = None,
        handler: FakeHandler | None = None,
        leases: LeaseStore | None = None,
        folders: EngineFolders | None = None,
        key: WorkerKey | None = None,
        answerer: Answerer | None = None,
    ) -> RunningWorker:
        """Start a worker; under the name of an earlier one it is another process of the same worker.

        With the same *folders* and host as another one, each takes over from the other.
        """
        readiness = Readiness()
        self._instances += 1
        host = host or f"host-of-{name}"
        handler = handler or FakeHandler(self.world, host)
        worker = Worker(
            WorkerIdentity(
                name,
                f"{name}-{self._instances}",
                host,
                name,
                started_at_milliseconds=self._instances,
                public_key=key.public if key is not None else b"",
                answers_queries=answerer is not None,
            ),
            [f"127.0.0.1:{port}" for port in self.ports],
            leases=leases or self.leases,
            handler=handler,
            timing=self._timing,
            readiness=readiness,
            engine=EngineView(
                lambda: "the engine is lost" if handler.lost else handler.impediment,
                lambda: handler.lost,
                lambda: handler.room,
                on_change=handler.listeners.append,
            ),
            heartbeat_interval_seconds=self.heartbeat_seconds,
            stop_grace_seconds=1.0,
            folders=folders,
            key=key,
            answerer=answerer,
        )
        running = RunningWorker(worker, handler, readiness, asyncio.create_task(worker.run(), name=name))
        self._started.append(running)
        return running

    def false_worker(self, name: str, *, claims: int) -> FalseWorker:
        """Start a worker that is only a stream to the master: it reports *claims* segments and acquires none."""
        self._instances += 1
        false = FalseWorker()
        session = MasterSession(
            WorkerIdentity(name, f"{name}-{self._instances}", f"host-of-{name}", name, started_at_milliseconds=1),
            [f"127.0.0.1:{port}" for port in self.ports],
            state=lambda: WorkerState(held=(HeldSegment(claims, 1),) if claims in false.assigned else ()),
            assigned=false.accept,
            readiness=Readiness(),
            heartbeat_interval_seconds=0.1,
        )
        false.task = asyncio.create_task(session.run(), name=name)
        self._false.append(false)
        return false

    async def epochs(self) -> dict[int, int]:
        """Return the epoch of each live lease."""
        return {view.segment_id: view.epoch for view in await self.leases.live()}

    async def close(self) -> None:
        """End all that still run."""
        tasks = [running.task for running in self._started] + [false.task for false in self._false if false.task]
        await asyncio.gather(*(_cancelled(task) for task in tasks), return_exceptions=True)


@contextlib.asynccontextmanager
async def running_cluster(
    database: Database,
    masters: int = 2,
    *,
    life_seconds: float = PATIENT_LIFE_SECONDS,
    death_seconds: float = PATIENT_DEATH_SECONDS,
    target: int = 1,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> AsyncIterator[Cluster]:
    """A cluster without members; at the end all members are ended, and the first law is checked.

    *target* is the number of segments per worker up to which they are spread evenly.
    """
    await _open_connections(database)
    cluster = Cluster(database, masters, life_seconds, death_seconds, target, heartbeat_seconds)
    try:
        yield cluster
    finally:
        await cluster.close()
    cluster.world.check_law()


async def _open_connections(database: Database, count: int = 8) -> None:
    # Members are ended by cancellation. PyMongo 4.20 leaves a connection that is being opened at that moment to the
    # garbage collector, which fails a test; so all needed connections are opened now, by slow requests.
    await database["warm"].insert_one({})
    slow = {"$where": "sleep(100) || true"}
    await asyncio.gather(*(database["warm"].find_one(slow) for _ in range(count)))


def coordination_settings(
    death_seconds: float, target: int = 1, heartbeat_seconds: float = HEARTBEAT_SECONDS
) -> CoordinationSettings:
    """Timing about ten times as fast as in production."""
    return CoordinationSettings(
        master_service="unused",
        grpc_port=0,
        heartbeat_interval_seconds=heartbeat_seconds,
        death_timeout_seconds=death_seconds,
        assign_interval_seconds=0.5,
        settle_seconds=0.1,
        max_segments_per_worker=target,
        max_segment=3,
    )


def owned_by(workers: Sequence[RunningWorker]) -> list[int]:
    """Return the segments that these workers own now, sorted."""
    return sorted(segment_id for worker in workers for segment_id in worker.owns)


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
