"""A master: stands for election, listens for workers and, while it leads, assigns segments to them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import Counter

from libs.core.aio.backoff import Backoff
from libs.core.aio.coalescing import coalesced
from libs.core.config.coordination_settings import CoordinationSettings
from libs.core.coordination import WorkerIdentity, WorkerState
from libs.core.http.health import Readiness
from libs.core.leases.boot_clock import boot_seconds
from libs.core.leases.lease import Holder
from libs.core.leases.lease_keeper import LeaseTiming
from libs.core.master.assigner import Assigner
from libs.core.master.cordons import Cordons
from libs.core.master.counts import MasterCounts, workers_by_role
from libs.core.master.leader_directory import LeaderDirectory
from libs.core.master.leadership import Campaign
from libs.core.master.registry import (
    Abandon,
    AskToRegister,
    Instruction,
    Refuse,
    Registry,
    Replace,
    SendAssignment,
    SessionId,
    Worker,
)
from libs.core.master.room_report import room_report
from libs.core.master.server import CoordinationServer
from libs.core.master.status import (
    MasterSnapshot,
    segment_statuses,
    worker_status,
)
from libs.core.observability.log import get_logger
from libs.core.observability.tracing import Headers, trace_headers
from libs.core.queries.messages import Query, QueryAnswer
from libs.core.store.cordons import CordonStore
from libs.core.store.leases import LeadershipStore, LeaseStore
from libs.core.store.processes import ProcessStore
from libs.core.transport.peer_limits import PeerLimits
from libs.core.transport.pod_tokens import PodProofs
from libs.core.transport.security import TransportSecurity

log = get_logger(__name__)

WORKERS_GONE = Counter("runtime_workers_gone_total", "Workers that disconnected, by reason.", ["reason"])
for _reason in ("left", "broken", "silent"):
    WORKERS_GONE.labels(_reason)  # exported as 0, so that the first one shows as an increase
ASSIGNMENTS = Counter("runtime_assignments_total", "Assignments sent to workers, repeats included.")


class Master:
    """One master process of one service.

    Args:
        holder: this process, with a new instance id for each process.
        address: where to listen for workers, ``host:port``.
        timing: of the leadership's renewals.
        security: what it proves to workers, and requires of them.
        pods: what it requires of the tokens of worker pods.
        limits, connection_limits: of workers' streams, and of connections where those with TLS share a port.
        processes: where masters are registered, to name the leader's addresses to workers.
        while_leading: loops, by name, that run only in the leading master (repair, autoscaler). A loop that fails is
            logged and restarted, and never ends the master.
    """

    def __init__(
        self,
        *,
        segments: LeaseStore,
        leadership: LeadershipStore,
        cordons: CordonStore,
        processes: ProcessStore,
        holder: Holder,
        settings: CoordinationSettings,
        timing: LeaseTiming,
        address: str,
        readiness: Readiness,
        security: TransportSecurity | None = None,
        pods: PodProofs | None = None,
        limits: PeerLimits | None = None,
        connection_limits: PeerLimits | None = None,
        while_leading: Sequence[tuple[str, Callable[[], Awaitable[None]]]] = (),
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self._segments = segments
        self._holder = holder
        self._settings = settings
        self._readiness = readiness
        self._while_leading = while_leading
        self._clock = clock
        self._campaign = Campaign(leadership, holder, timing, readiness, clock=clock)
        self.leader_directory = LeaderDirectory(processes, lambda: self._campaign.other_leader)
        self._server = CoordinationServer(
            self,
            holder.worker_id,
            address,
            heartbeat_interval_seconds=settings.heartbeat_interval_seconds,
            death_timeout_seconds=settings.death_timeout_seconds,
            security=security,
            pods=pods,
            limits=limits,
            connection_limits=connection_limits,
        )
        self._registry = Registry(settings.death_timeout_seconds, settings.settle_seconds)
        self._cordons = Cordons(cordons, changed=self.changed, connected=self._connected)
        self._assigner = Assigner(
            segments,
            self._registry,
            self._cordons,
            settings,
            readiness,
            leads=lambda: self.leads,
            carry_out=self._carry_out,
            clock=clock,
        )

    @property
    def port(self) -> int:
        """The port on which it listens for workers; 0 before that."""
        return self._server.port

    @property
    def is_ready(self) -> bool:
        """Whether workers may be sent here: it leads, or knows who does."""
        return self._server.is_ready

    @property
    def leads(self) -> bool:
        """Whether this master leads, and can prove it now."""
        return self._campaign.leads

    @property
    def leader(self) -> str | None:
        """The worker id of the leading master, as last read."""
        return self._campaign.leader

    def now(self) -> float:
        """Return MongoDB's time, Unix seconds."""
        return self._segments.now()

    async def leader_addresses(self) -> Sequence[str]:
        """Return the addresses at which another master, the leader, listens for workers; empty if none is known."""
        leader = await self.leader_directory.find()
        return leader.grpc_addresses if leader is not None else []

    async def run(self) -> None:
        """Listen and stand for election forever. If cancelled, resign and end all streams.

        Raises:
            PortTaken: the address is in use.
        """
        await self._server.start()
        try:
            await self._campaign.run(self._lead, self._server.ready)
        finally:
            await self._server.stop()

    def led_by(self, trace: Headers) -> None:
        """Add the trace of a change of segments to the next decision."""
        self._assigner.led_by(trace)

    def changed(self) -> None:
        """Decide soon, because segments may have changed, instead of at the next interval."""
        self._assigner.changed()

    def notice(self, topic: str, text: str) -> None:
        """Show *text* to operators until it is replaced; an empty text removes it."""
        self._assigner.notice(topic, text)

    async def surveyed(self) -> None:
        """Return when this master, which leads, has read the segments once."""
        await self._assigner.surveyed()

    def snapshot(self) -> MasterSnapshot:
        """Return what this master knows now."""
        now = self._clock()
        workers = self._registry.workers
        assigned = self._assigner.assigned
        return MasterSnapshot(
            master_id=self._holder.worker_id,
            leads=self.leads,
            leader=self.leader,
            epoch=self._campaign.epoch,
            surveyed_seconds_ago=round(now - assigned.at, 3) if assigned is not None else None,
            problem=self._assigner.problem,
            notices=self._assigner.notices,
            max_segment=self._settings.max_segment,
            segments=segment_statuses(assigned.survey, assigned.decision, workers) if assigned is not None else [],
            workers=[worker_status(worker, now) for worker in workers],
        )

    def counts(self) -> MasterCounts:
        """Return the numbers by state."""
        now, workers = self._clock(), self._registry.workers
        assigned, segments = self._assigner.assigned, self._assigner.segments_by_state()
        return MasterCounts(
            leads=self.leads,
            max_segment=self._settings.max_segment,
            surveyed_seconds_ago=now - assigned.at if assigned is not None else None,
            segments={state: len(found) for state, found in segments.items()},
            workers=workers_by_role(workers),
            longest_wait_seconds=self._assigner.longest_wait_seconds(segments),
            room=room_report(workers),
        )

    # --- queries

    def owner_of(self, segment_id: int) -> Worker | None:
        """Return the worker that last reported to hold the segment; None without one."""
        return next((worker for worker in self._registry.workers if worker.holds(segment_id)), None)

    async def ask(self, worker: Worker, query: Query) -> QueryAnswer | None:
        """Return the answer of *worker* to *query*; None when its stream ends before. The caller limits the time."""
        return await self._server.ask(worker.session, query)

    # --- while leading

    async def _lead(self) -> None:
        try:
            await self._server.serve(True)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._assigner.run(), name="assign")
                group.create_task(self._expire_for_ever(), name="find dead workers")
                for name, run in (("cordons", self._cordons.watch_for_ever), *self._while_leading):
                    group.create_task(self._again_and_again(name, run), name=name)
        finally:
            # First the step that needs no waiting: afterwards no worker receives anything from this master.
            self._server.end_all("this master is no longer the leader")
            self._registry.clear()
            self._assigner.clear()
            await self._server.serve(False)

    def _connected(self) -> list[str]:
        return [worker.identity.worker_id for worker in self._registry.workers]

    async def _expire_for_ever(self) -> None:
        while True:
            for worker in self._registry.expire(self._clock()):
                WORKERS_GONE.labels("silent").inc()
                _log_gone(worker, "no heartbeat within the death timeout")
            self._wake_if_changed()
            await asyncio.sleep(coalesced(self._registry.check_in_seconds(self._clock())))

    async def _again_and_again(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(initial_seconds=1.0, cap_seconds=60.0)
        while True:
            try:
                await run()
                log.error("a loop of the leading master ended unexpectedly", loop=name)
            except Exception:
                log.exception("a loop of the leading master failed", loop=name)
            await asyncio.sleep(backoff.next_seconds())

    # --- called by the server

    def is_bound(self, worker_id: str, public_key: bytes) -> bool:
        """Whether a worker id belongs to a key."""
        return self._registry.is_bound(worker_id, public_key)

    def register(self, session: SessionId, identity: WorkerIdentity, state: WorkerState) -> None:
        """Handle the registration of a worker on a stream."""
        instructions = self._registry.register(session, identity, state, self._clock())
        if Refuse(session, identity.worker_id) not in instructions:
            log.info(
                "worker registered",
                worker=identity.worker_id,
                instance=identity.instance_id,
                hostname=identity.hostname,
                held=sorted(state.held_ids),
            )
            self.led_by(trace_headers())
        for instruction in instructions:
            self._carry_out(instruction)
        self._wake_if_changed()

    def heartbeat(self, session: SessionId, state: WorkerState) -> None:
        """Handle a heartbeat."""
        answer = self._registry.heartbeat(session, state, self._clock())
        if answer is not None:
            self._carry_out(answer)
        self._wake_if_changed()

    def leave(self, session: SessionId) -> None:
        """Handle the end of a stream."""
        worker = self._registry.leave(session)
        if worker is not None:
            # A worker that leaves in order reports draining and releases its segments before its stream ends.
            ended_in_order = worker.state.draining or not worker.state.held
            WORKERS_GONE.labels("left" if ended_in_order else "broken").inc()
            _log_gone(worker, "its stream has ended")
        self._wake_if_changed()

    def _wake_if_changed(self) -> None:
        if self._registry.take_changed():
            self._assigner.changed()

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case SendAssignment(session, assignment):
                ASSIGNMENTS.inc()
                self._server.send_assignment(session, assignment)
            case AskToRegister(session):
                self._server.ask_to_register(session)
            case Replace(session, by):
                self._server.replace(session, by)
            case Refuse(session, worker_id):
                log.warning("worker refused: its worker id belongs to another key", worker=worker_id)
                self._server.refuse(session, worker_id)
            case Abandon(session):
                self._server.abandon(session)


def _log_gone(worker: Worker, reason: str) -> None:
    log.warning(
        "worker gone",
        worker=worker.identity.worker_id,
        reason=reason,
        held=sorted(worker.state.held_ids),
        draining=worker.state.draining,
    )
