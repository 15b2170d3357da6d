"""A master: stands for election, listens for workers and, while it leads, assigns segments."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from prometheus_client import Counter

from libs.core.aio.backoff import Backoff
from libs.core.aio.coalescing import coalesced
from libs.core.aio.wake import Wake
from libs.core.config.coordination_settings import CoordinationSettings
from libs.core.coordination import WorkerIdentity, WorkerState
from libs.core.errors import RuntimeFault
from libs.core.http.health import Readiness
from libs.core.leases.boot_clock import boot_seconds
from libs.core.leases.lease import Holder, SegmentView
from libs.core.leases.lease_keeper import LeaseTiming
from libs.core.master.assignment import Decision, decide
from libs.core.master.cordons import Cordons
from libs.core.master.counts import MasterCounts, Waits, workers_by_role
from libs.core.master.leader_directory import LeaderDirectory
from libs.core.master.leadership import Campaign
from libs.core.master.move_pace import MovePace
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
    SegmentState,
    segment_statuses,
    segments_by_state,
    worker_status,
)
from libs.core.master.unacquired import Unacquired
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe
from libs.core.observability.tracing import Headers, begin, current, trace_headers
from libs.core.process.isolation import isolated
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
NOT_ACQUIRED = Counter(
    "runtime_assignments_not_acquired_total", "Assigned segments whose lease the worker did not acquire within 5 s."
)

DEPENDENCY = "segments"
"""The name under which readiness shows whether segments can be read, and how many of them wait."""

_RETRY_SECONDS = 1.0
_LEAST_GAP_SECONDS = 0.05
_SENT_AT_ONCE = 200
_MOST_CAUSES = 16


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
        self._wake = Wake()
        self._led_by: deque[Headers] = deque(maxlen=_MOST_CAUSES)
        self._decided: tuple[Sequence[SegmentView], Decision, float] | None = None
        self._waits = Waits()
        self._pace = MovePace()
        self._unacquired = Unacquired()
        self._problem = ""
        self._notices: dict[str, str] = {}
        self._surveyed = asyncio.Event()
        self._oversized = False

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
        if trace:
            self._led_by.append(trace)

    def changed(self) -> None:
        """Decide soon, because segments may have changed, instead of at the next interval."""
        self._wake.set()

    def notice(self, topic: str, text: str) -> None:
        """Show *text* to operators until it is replaced; an empty text removes it."""
        self._notices[topic] = text

    async def surveyed(self) -> None:
        """Return when this master, which leads, has read the segments once."""
        await self._surveyed.wait()

    def snapshot(self) -> MasterSnapshot:
        """Return what this master knows now."""
        now = self._clock()
        workers = self._registry.workers
        survey, decision, surveyed_at = self._decided or ((), None, 0.0)
        return MasterSnapshot(
            master_id=self._holder.worker_id,
            leads=self.leads,
            leader=self.leader,
            epoch=self._campaign.epoch,
            surveyed_seconds_ago=round(now - surveyed_at, 3) if decision is not None else None,
            problem=self._problem,
            notices=[text for _, text in sorted(self._notices.items()) if text],
            max_segment=self._settings.max_segment,
            segments=segment_statuses(survey, decision, workers) if decision is not None else [],
            workers=[worker_status(worker, now) for worker in workers],
        )

    def counts(self) -> MasterCounts:
        """Return the numbers by state."""
        now, workers = self._clock(), self._registry.workers
        segments: Mapping[SegmentState, Collection[int]] = {}
        surveyed_at = None
        if self._decided is not None:
            survey, decision, surveyed_at = self._decided
            segments = segments_by_state(survey, decision, workers)
            self._waits.note(segments, now)
        return MasterCounts(
            leads=self.leads,
            max_segment=self._settings.max_segment,
            surveyed_seconds_ago=now - surveyed_at if surveyed_at is not None else None,
            segments={state: len(found) for state, found in segments.items()},
            workers=workers_by_role(workers),
            longest_wait_seconds=self._waits.longest_seconds(now),
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
                group.create_task(self._assign_for_ever(), name="assign")
                group.create_task(self._expire_for_ever(), name="find dead workers")
                for name, run in (("cordons", self._cordons.watch_for_ever), *self._while_leading):
                    group.create_task(self._again_and_again(name, run), name=name)
        finally:
            # First the step that needs no waiting: afterwards no worker receives anything from this master.
            self._server.end_all("this master is no longer the leader")
            self._registry.clear()
            self._decided, self._problem, self._waits, self._pace = None, "", Waits(), MovePace()
            self._unacquired.clear()
            self._surveyed.clear()
            self._notices.clear()
            self._readiness.forget(DEPENDENCY)
            await self._server.serve(False)

    async def _assign_for_ever(self) -> None:
        while True:
            begun = self._clock()
            await self._wake.wait_at_most(0)  # the following reads include all earlier changes
            next_seconds = _RETRY_SECONDS
            with isolated("assign segments", passing=()):
                next_seconds = await self.assign_once()
            # Many workers that join at once share one decision, and rounds take a third of the time at most.
            gap = max(_LEAST_GAP_SECONDS, min(1.0, 2 * (self._clock() - begun)))
            await asyncio.sleep(gap)
            await self._wake.wait_at_most(max(0.0, next_seconds - gap))

    async def assign_once(self) -> float:
        """Read the segments, decide, and send changed assignments; return the seconds until the next round.

        When MongoDB cannot be read nothing is decided: all workers keep the last assignment.
        """
        # Changes that arrive while the segments are read may be missing in the result.
        causes = list(self._led_by)
        read_at = self._clock()
        departures = self._registry.departures
        try:
            with observe("master", "survey"):
                survey = await self._segments.survey()
                cordons = await self._cordons.read()
        except RuntimeFault as fault:
            if not self._problem:
                log.warning("segments cannot be read; the last assignment is kept", reason=str(fault))
            self._problem = str(fault)
            self._readiness.report(DEPENDENCY, False, f"the last assignment is kept: {fault}", required=False)
            return _RETRY_SECONDS
        if not self.leads:
            return _RETRY_SECONDS
        self._problem = ""
        for refuse in self._registry.bind(_keys(survey), departures):
            self._carry_out(refuse)
        self._registry.cordon(cordons)
        now = self._clock()
        for worker_id, segment_id in self._unacquired.surveyed(survey, read_at):
            NOT_ACQUIRED.inc()
            log.warning("assigned segment not acquired in time", worker=worker_id, segment=segment_id)
        settled_in_seconds = self._registry.settled_in_seconds(now)
        with observe("master", "decide"):
            decision = decide(
                survey,
                self._registry.views(self._unacquired.overdue(now)),
                self._registry.rooms(),
                target=self._settings.max_segments_per_worker,
                settled=settled_in_seconds <= 0,
                resting_hosts=self._pace.resting(now),
            )
            self._pace.note(decision.moves, now)
            deciding = begin("assign segments", parent=causes[0] if causes else {}, links=causes[1:])
            news = self._registry.apply(decision, deciding.headers, settled=settled_in_seconds <= 0)
            self._unacquired.assigned(decision.given, survey, self._clock())
        if settled_in_seconds <= 0:
            # Until then the changes may still lead to an assignment.
            self._led_by = deque((cause for cause in self._led_by if cause not in causes), maxlen=_MOST_CAUSES)
        self._decided = (survey, decision, self._clock())
        self._surveyed.set()
        self._waits.note(segments_by_state(survey, decision, self._registry.workers), self._clock())
        self._report(survey, decision)
        if news:
            with deciding.entered():
                await self._send(news)
            deciding.end()  # a decision without a change is not recorded
        if settled_in_seconds <= 0:
            await self._answer_cordons(decision)
        reasons_to_look = [self._settings.assign_interval_seconds]
        if decision.next_expiry_seconds is not None:
            reasons_to_look.append(decision.next_expiry_seconds + 0.01)
        if settled_in_seconds > 0:
            reasons_to_look.append(settled_in_seconds)
        if decision.staying:
            reasons_to_look.append(_RETRY_SECONDS)
        if (overdue_in_seconds := self._unacquired.next_seconds(self._clock())) is not None:
            reasons_to_look.append(overdue_in_seconds + 0.01)
        return min(reasons_to_look)

    async def _answer_cordons(self, decision: Decision) -> None:
        try:
            await self._cordons.answer(decision.staying)
        except RuntimeFault as fault:
            log.warning("the state of cordons cannot be stored now", reason=str(fault))

    def _connected(self) -> list[str]:
        return [worker.identity.worker_id for worker in self._registry.workers]

    async def _send(self, news: Sequence[SendAssignment]) -> None:
        current().set(assignments=len(news))
        for number, instruction in enumerate(news):
            self._carry_out(instruction)
            if number % _SENT_AT_ONCE == _SENT_AT_ONCE - 1:
                await asyncio.sleep(0)  # let heartbeats and the leadership's renewal run

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

    def _report(self, survey: Sequence[SegmentView], decision: Decision) -> None:
        occupied = sum(segment.bot_count > 0 for segment in survey)
        details = [f"{len(decision.waiting)} of {occupied} segments wait for a worker"] if decision.waiting else []
        self.notice("drain", _drains(decision))
        self.notice("room", str(room_report(self._registry.workers)))
        oversized = occupied > self._settings.max_segment
        if oversized:
            details.append(f"{occupied} segments are more than the {self._settings.max_segment} of --max-segment")
        if oversized and not self._oversized:
            log.warning("more segments than --max-segment", segments=occupied, max_segment=self._settings.max_segment)
        self._oversized = oversized
        self._readiness.report(DEPENDENCY, True, "; ".join(details), required=False)

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
            self._wake.set()

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


def _keys(survey: Sequence[SegmentView]) -> dict[str, bytes]:
    """Return the keys to which worker ids belong by live leases."""
    leases = (segment.lease for segment in survey)
    return {lease.holder.worker_id: lease.holder.public_key for lease in leases if lease and lease.holder.public_key}


def _drains(decision: Decision) -> str:
    """Return which drained workers keep segments, and why, for users."""
    return "; ".join(
        f"{worker_id} is drained and keeps segment {segment_id}: {why}"
        for worker_id, staying in sorted(decision.staying.items())
        for segment_id, why in staying.items()
    )


def _log_gone(worker: Worker, reason: str) -> None:
    log.warning(
        "worker gone",
        worker=worker.identity.worker_id,
        reason=reason,
        held=sorted(worker.state.held_ids),
        draining=worker.state.draining,
    )
