"""The workers known to a master, as a state machine in virtual time: events in, instructions out, no I/O.

A worker is known from its registration until its stream ends or its heartbeats stop for too long. The cost of a
heartbeat does not depend on the number of workers.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NewType

from libs.core.coordination import Assignment, WorkerIdentity, WorkerState
from libs.core.master.assignment import Decision
from libs.core.master.worker_view import WorkerView
from libs.core.observability.tracing import Headers
from libs.core.room import Need, Room, least_by_host
from libs.core.store.cordons import Cordon

SessionId = NewType("SessionId", int)
"""One stream of one worker process."""


@dataclass(frozen=True, slots=True)
class SendAssignment:
    """Send *assignment* on the stream."""

    session: SessionId
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class AskToRegister:
    """Request that the worker, which is unknown, registers again."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class Replace:
    """End the stream: *by*, another process with the same worker id, replaced it."""

    session: SessionId
    by: WorkerIdentity


@dataclass(frozen=True, slots=True)
class Abandon:
    """End the stream: the same process opened another one."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class Refuse:
    """End the stream: the worker id belongs to another key."""

    session: SessionId
    worker_id: str


Instruction = SendAssignment | AskToRegister | Replace | Abandon | Refuse


class _Undecided(Enum):
    UNDECIDED = "undecided"


_OVERDUE_SECONDS = 0.1
"""How long after its time a worker is removed: its heartbeat may just have arrived."""
_FIRST_REFUSAL_SECONDS = 20.0
_LONGEST_REFUSAL_SECONDS = 600.0
_SETTLE_AT_MOST = 4
"""Maximum number of settling times by which a series of registrations delays new assignments."""

UNDECIDED: Final = _Undecided.UNDECIDED
"""The assignment of a worker before the first decision after its registration: it keeps what it holds."""


@dataclass(slots=True)
class Refusals:
    """How long segments that run elsewhere do not move to a worker after it refused one.

    Each move that ends in a refusal interrupts entities in vain, so the time doubles with repeated refusals.
    """

    _until: float = float("-inf")
    _seconds: float = 0.0

    def note(self, now: float) -> None:
        """Record that the worker refused a segment at *now*, in seconds."""
        if now - self._until > _LONGEST_REFUSAL_SECONDS:
            self._seconds = _FIRST_REFUSAL_SECONDS
        elif now >= self._until:
            self._seconds = min(2 * self._seconds, _LONGEST_REFUSAL_SECONDS)
        self._until = now + self._seconds

    def continue_at(self, now: float) -> bool:
        """Whether it may refuse the next segment too."""
        return now < self._until


@dataclass(slots=True)
class Worker:
    """One known worker. Times are the registry's virtual ones, in seconds."""

    session: SessionId
    identity: WorkerIdentity
    state: WorkerState
    seniority: int
    registered_at: float
    last_heard: float
    decided: frozenset[int] | _Undecided = UNDECIDED
    reason: str = ""
    trace: Headers = field(default_factory=dict)
    cordon: Cordon | None = None
    refusals: Refusals = field(default_factory=Refusals)

    @property
    def assigned(self) -> frozenset[int]:
        """The segments assigned to it."""
        return self.decided if isinstance(self.decided, frozenset) else frozenset()

    def holds(self, segment_id: int) -> bool:
        """Whether it has the lease of a segment, as last reported."""
        return any(held.segment_id == segment_id for held in self.state.held)

    @property
    def agrees(self) -> bool:
        """Whether it holds exactly the assigned segments, if any were decided."""
        return self.decided is UNDECIDED or self.decided == self.state.held_ids


class Registry:
    """All workers by id.

    Args:
        death_timeout_seconds: maximum time between heartbeats.
        settle_seconds: how long to wait for further registrations after one, since workers start in groups.
    """

    def __init__(self, death_timeout_seconds: float, settle_seconds: float = 0.0) -> None:
        self._death_timeout = death_timeout_seconds
        self._settle = settle_seconds
        self._unsettled: tuple[float, float] | None = None
        self._workers: dict[str, Worker] = {}
        # In order of the last heartbeat, so that overdue workers come first.
        self._sessions: OrderedDict[SessionId, Worker] = OrderedDict()
        # The keys to which worker ids belong: in live leases as last read, and of workers that left since then.
        self._bound: Mapping[str, bytes] = {}
        self._left: dict[str, tuple[int, bytes]] = {}
        self._departures = 0
        self._seniority = 0
        self._last_expiry_check: float | None = None
        self._listening_since = float("-inf")
        self._changed = False
        self._lacking_room = False

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def workers(self) -> Sequence[Worker]:
        """All known workers, a copy of the list."""
        return list(self._workers.values())

    def take_changed(self) -> bool:
        """Whether an event since the last call can change the assignment."""
        changed, self._changed = self._changed, False
        return changed

    def register(
        self, session: SessionId, identity: WorkerIdentity, state: WorkerState, now: float
    ) -> list[Instruction]:
        """Register a worker on *session*, for the first time or again. Nothing is decided for it yet.

        Its key is proven. A worker id that belongs to another key is refused.
        """
        known = self._workers.get(identity.worker_id)
        instructions: list[Instruction] = []
        owner = self._owner(identity.worker_id)
        if owner and identity.public_key != owner:
            return [Refuse(session, identity.worker_id)]
        if known is not None and owner and known.identity.public_key != owner:
            # It came before the leases were read.
            instructions.append(Refuse(known.session, identity.worker_id))
        elif known is not None and known.identity.instance_id != identity.instance_id:
            if identity.started_at_milliseconds < known.identity.started_at_milliseconds:
                # An old process that was frozen or disconnected returns: its successor stays.
                return [Replace(session, known.identity)]
            instructions.append(Replace(known.session, identity))
        elif known is not None and known.session != session:
            instructions.append(Abandon(known.session))
        self._forget_session(session)
        if known is not None:
            self._forget_session(known.session)
        self._seniority += 1
        worker = Worker(session, identity, state, self._seniority, registered_at=now, last_heard=now)
        if known is not None and known.identity.instance_id == identity.instance_id:
            worker.seniority, worker.registered_at = known.seniority, known.registered_at
        if known is not None:
            worker.cordon, worker.refusals = known.cordon, known.refusals
        if known is None:
            first, _ = self._unsettled if self.settled_in_seconds(now) > 0 and self._unsettled else (now, now)
            self._unsettled = (first, now)
        self._workers[identity.worker_id] = worker
        self._sessions[session] = worker
        self._changed = True
        return instructions

    def heartbeat(self, session: SessionId, state: WorkerState, now: float) -> Instruction | None:
        """Record a heartbeat. The answer, if any, repeats the assignment that the worker does not follow (yet)."""
        worker = self._sessions.get(session)
        if worker is None:
            return AskToRegister(session)
        before, worker.state, worker.last_heard = worker.state, state, now
        self._sessions.move_to_end(session)
        if state == before and worker.agrees:
            return None
        if state.refused.keys() - before.refused.keys():
            worker.refusals.note(now)
        self._changed |= _matters(before, state) or (self._lacking_room and before.room != state.room)
        return None if worker.agrees else SendAssignment(session, self._assignment(worker))

    def settled_in_seconds(self, now: float) -> float:
        """Return how long further registrations are expected; zero or less when they are not.

        Otherwise, of several workers that start together, the first would keep all segments.
        """
        if self._unsettled is None:
            return 0.0
        first, last = self._unsettled
        return min(last + self._settle, first + _SETTLE_AT_MOST * self._settle) - now

    def leave(self, session: SessionId) -> Worker | None:
        """Handle the end of the stream: return its worker, if it was still registered on it, as gone."""
        return self._forget_session(session)

    def expire(self, now: float) -> list[Worker]:
        """Remove and return the workers whose heartbeats are overdue. Call it as often as *check_in_seconds* says.

        Only time in which this process listens counts: if it was itself frozen or blocked, every worker gets the full
        time again.
        """
        if self._last_expiry_check is not None and now - self._last_expiry_check > self._death_timeout / 2:
            self._listening_since = now
        self._last_expiry_check = now
        dead: list[Worker] = []
        while self._sessions:
            session, worker = next(iter(self._sessions.items()))
            if now - max(worker.last_heard, self._listening_since) < self._death_timeout:
                break
            self._forget_session(session)
            dead.append(worker)
        return dead

    def check_in_seconds(self, now: float) -> float:
        """Return how long *expire* need not be called: no worker that is silent now is overdue before."""
        longest = self._death_timeout / 4
        oldest = next(iter(self._sessions.values()), None)
        if oldest is None:
            return longest
        overdue_at = max(oldest.last_heard, self._listening_since) + self._death_timeout
        return min(longest, max(0.0, overdue_at - now) + _OVERDUE_SECONDS)

    @property
    def departures(self) -> int:
        """How many workers have left so far; read it before the leases are read."""
        return self._departures

    def is_bound(self, worker_id: str, public_key: bytes) -> bool:
        """Whether *worker_id* belongs to this key."""
        return bool(public_key) and self._owner(worker_id) == public_key

    def bind(self, keys: Mapping[str, bytes], departures: int) -> list[Refuse]:
        """Bind worker ids to the keys in live leases, read after that number of departures.

        Workers that are registered with another key are removed; their streams must end.
        """
        self._bound = keys
        self._left = {worker_id: left for worker_id, left in self._left.items() if left[0] > departures}
        false = [
            worker
            for worker_id, worker in self._workers.items()
            if worker.identity.public_key != keys.get(worker_id, worker.identity.public_key)
        ]
        for worker in false:
            self._forget_session(worker.session)
        return [Refuse(worker.session, worker.identity.worker_id) for worker in false]

    def clear(self) -> list[SessionId]:
        """Remove all workers, when this master no longer leads; return their streams."""
        sessions = list(self._sessions)
        self._bound, self._left = {}, {}
        self._sessions.clear()
        self._workers.clear()
        self._changed = False
        self._unsettled = None
        return sessions

    def views(self, overdue: Mapping[str, frozenset[int]] | None = None) -> list[WorkerView]:
        """Return the workers as input of the assignment; *overdue* by worker, as in WorkerView."""
        return [
            WorkerView(
                worker_id=worker_id,
                instance_id=worker.identity.instance_id,
                host=worker.identity.host,
                seniority=worker.seniority,
                held=worker.state.held,
                assigned=None if worker.decided is UNDECIDED else worker.assigned,
                draining=worker.state.draining,
                impediment=worker.state.impediment,
                refused=worker.state.refused,
                engine_lost=worker.state.engine_lost,
                at_most=None if worker.identity.owns_several else 1,
                cordoned=worker.cordon is not None,
                drained=worker.cordon is not None and worker.cordon.drain,
                refused_lately=worker.refusals.continue_at(worker.last_heard),
                overdue=(overdue or {}).get(worker_id, frozenset()),
                labels=worker.identity.labels,
                template=worker.identity.template or worker.identity.version,
                started=worker.identity.started_at_milliseconds,
            )
            for worker_id, worker in self._workers.items()
        ]

    def cordon(self, cordons: Mapping[str, Cordon]) -> None:
        """Replace the current cordons by *cordons*, by worker."""
        for worker_id, worker in self._workers.items():
            worker.cordon = cordons.get(worker_id)

    def rooms(self) -> dict[str, Room]:
        """Return the free room of each engine, by host: the minimum of its workers' reports, which may be old."""
        return least_by_host((worker.identity.host, worker.state.room) for worker in self._workers.values())

    def apply(self, decision: Decision, trace: Headers | None = None, *, settled: bool = True) -> list[SendAssignment]:
        """Apply *decision*, made in *trace*, and return the messages for workers whose assignment changed.

        Before the workers have settled, those without segments receive no message.
        """
        news = []
        given = decision.given
        self._lacking_room = any(
            held.demand.lacking is not None for worker in self._workers.values() for held in worker.state.held
        )
        for worker_id, worker in self._workers.items():
            decided = given.get(worker_id, frozenset())
            if worker.decided == decided or (worker.decided is UNDECIDED and not settled and not decided):
                continue
            worker.decided, worker.trace = decided, trace or {}
            worker.reason = decision.reasons.get(worker_id) or (
                "assigned" if decided else "no segment waits for a worker"
            )
            news.append(SendAssignment(worker.session, self._assignment(worker)))
        return news

    def _assignment(self, worker: Worker) -> Assignment:
        return Assignment(worker.assigned, worker.reason, worker.trace)

    def _owner(self, worker_id: str) -> bytes:
        """Return the key to which *worker_id* belongs; empty if it belongs to none."""
        if (key := self._bound.get(worker_id)) is not None:
            return key
        if (known := self._workers.get(worker_id)) is not None:
            return known.identity.public_key
        return self._left.get(worker_id, (0, b""))[1]

    def _forget_session(self, session: SessionId) -> Worker | None:
        worker = self._sessions.pop(session, None)
        if worker is None:
            return None
        if self._workers.get(worker.identity.worker_id) is worker:
            del self._workers[worker.identity.worker_id]
            self._departures += 1
            if worker.identity.public_key and (worker.state.held or (worker.assigned and not worker.state.draining)):
                # It may hold leases that were not read yet.
                self._left[worker.identity.worker_id] = (self._departures, worker.identity.public_key)
        self._changed = True
        return worker


def _matters(before: WorkerState, state: WorkerState) -> bool:
    """Whether the change can change the assignment. Acquiring a lease as assigned cannot."""
    return bool(
        before.held_ids - state.held_ids
        or _taken_over(state) - _taken_over(before)
        or before.draining != state.draining
        or before.impediment != state.impediment
        or before.engine_lost != state.engine_lost
        or before.refused != state.refused
        or _lacking(before) != _lacking(state)
    )


def _taken_over(state: WorkerState) -> set[int]:
    return {held.segment_id for held in state.held if held.taken_over}


def _lacking(state: WorkerState) -> list[tuple[int, Need]]:
    return [(held.segment_id, held.demand.lacking) for held in state.held if held.demand.lacking is not None]
