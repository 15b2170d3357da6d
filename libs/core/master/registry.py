"""The workers that a master knows, as a state machine in virtual time: events in, instructions out, no I/O.

A worker is known from its registration until its stream ends or it has been silent for too long. Every heartbeat costs
the same, however many workers there are.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NewType

from libs.core.coordination import Assignment, HeldSegment, WorkerIdentity, WorkerState
from libs.core.master.assignment import Decision, WorkerView
from libs.core.tracing import Headers

SessionId = NewType("SessionId", int)
"""One stream of one worker process."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Send *assignment* down the stream."""

    session: SessionId
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class AskToRegister:
    """Tell the worker that it is not known, and to register again."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class Replace:
    """End the stream: *by*, another process with the same worker id, has taken its place."""

    session: SessionId
    by: WorkerIdentity


@dataclass(frozen=True, slots=True)
class Abandon:
    """End the stream: the same process has opened another one."""

    session: SessionId


Instruction = Tell | AskToRegister | Replace | Abandon


class _Undecided(Enum):
    UNDECIDED = "undecided"


UNDECIDED: Final = _Undecided.UNDECIDED
"""What a worker has until the first decision since it registered: it keeps whatever it holds."""


@dataclass(slots=True)
class Worker:
    """One known worker. Times are the registry's virtual ones, in seconds."""

    session: SessionId
    identity: WorkerIdentity
    state: WorkerState
    seniority: int
    registered_at: float
    last_heard: float
    decided: int | _Undecided | None = UNDECIDED
    reason: str = ""
    trace: Headers = field(default_factory=dict)

    @property
    def assigned(self) -> int | None:
        """The segment that it was told to own."""
        return self.decided if isinstance(self.decided, int) else None

    @property
    def agrees(self) -> bool:
        """Whether it holds what it was told to, as far as anything was decided."""
        held = self.state.held
        return self.decided is UNDECIDED or self.decided == (held.segment_id if held is not None else None)


class Registry:
    """All workers by id.

    Args:
        death_timeout_seconds: how long a worker may be silent.
    """

    def __init__(self, death_timeout_seconds: float) -> None:
        self._death_timeout = death_timeout_seconds
        self._workers: dict[str, Worker] = {}
        # In order of the last sign of life, so that the silent ones are at the front.
        self._sessions: OrderedDict[SessionId, Worker] = OrderedDict()
        self._seniority = 0
        self._last_expiry_check: float | None = None
        self._listening_since = float("-inf")
        self._changed = False

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def workers(self) -> Sequence[Worker]:
        """All known workers, a copy of the list."""
        return list(self._workers.values())

    def take_changed(self) -> bool:
        """Whether something has happened since the last call that can change the assignment."""
        changed, self._changed = self._changed, False
        return changed

    def register(
        self, session: SessionId, identity: WorkerIdentity, state: WorkerState, now: float
    ) -> list[Instruction]:
        """A worker registers on *session*, for the first time or again. Nothing is decided for it yet."""
        known = self._workers.get(identity.worker_id)
        instructions: list[Instruction] = []
        if known is not None and known.identity.instance_id != identity.instance_id:
            if identity.started_at_milliseconds < known.identity.started_at_milliseconds:
                # An old process that was frozen or cut off comes back: its successor stays.
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
        self._workers[identity.worker_id] = worker
        self._sessions[session] = worker
        self._changed = True
        return instructions

    def heartbeat(self, session: SessionId, state: WorkerState, now: float) -> Instruction | None:
        """A sign of life. The answer, if there is one, repeats the assignment that the worker does not follow (yet)."""
        worker = self._sessions.get(session)
        if worker is None:
            return AskToRegister(session)
        before, worker.state, worker.last_heard = worker.state, state, now
        self._sessions.move_to_end(session)
        if state == before and worker.agrees:
            return None
        self._changed |= (
            (before.held is not None and _segment(before.held) != _segment(state.held))
            or before.draining != state.draining
            or before.impediment != state.impediment
        )
        return None if worker.agrees else Tell(session, self._assignment(worker))

    def leave(self, session: SessionId) -> Worker | None:
        """The stream has ended: its worker, if it was still known under it, is gone at once, and is returned."""
        return self._forget_session(session)

    def expire(self, now: float) -> list[Worker]:
        """Forget the workers that have been silent for too long, and return them. To be called a few times a second.

        Silence counts only while this process listens: if it was itself frozen or blocked, everybody gets the whole
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

    def clear(self) -> list[SessionId]:
        """Forget all workers, for a master that no longer leads; returns their streams."""
        sessions = list(self._sessions)
        self._sessions.clear()
        self._workers.clear()
        self._changed = False
        return sessions

    def views(self) -> list[WorkerView]:
        """The workers as assignment sees them."""
        return [
            WorkerView(
                worker_id=worker_id,
                instance_id=worker.identity.instance_id,
                host=worker.identity.host,
                seniority=worker.seniority,
                held=worker.state.held,
                assigned=worker.assigned,
                draining=worker.state.draining,
                impediment=worker.state.impediment,
            )
            for worker_id, worker in self._workers.items()
        ]

    def apply(self, decision: Decision, trace: Headers | None = None) -> list[Tell]:
        """Make *decision*, made in *trace*, what each worker should own; what to tell those for whom it is new."""
        news = []
        for worker_id, worker in self._workers.items():
            decided = decision.given.get(worker_id)
            if worker.decided is not UNDECIDED and worker.decided == decided:
                continue
            worker.decided, worker.trace = decided, trace or {}
            if decided is not None:
                worker.reason = "assigned"
            else:
                worker.reason = decision.reasons.get(worker_id, "no segment waits for a worker")
            news.append(Tell(worker.session, self._assignment(worker)))
        return news

    def _assignment(self, worker: Worker) -> Assignment:
        return Assignment(worker.assigned, worker.reason, worker.trace)

    def _forget_session(self, session: SessionId) -> Worker | None:
        worker = self._sessions.pop(session, None)
        if worker is None:
            return None
        if self._workers.get(worker.identity.worker_id) is worker:
            del self._workers[worker.identity.worker_id]
        self._changed = True
        return worker


def _segment(held: HeldSegment | None) -> int | None:
    return held.segment_id if held is not None else None
