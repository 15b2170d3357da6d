"""The state of a schedule's firings in its document, read once and written back in small updates.

Beside the contract's `next_execution_time` there is one field `scheduler`: `fired_at` (the latest claimed firing),
`firing` (the active one), `queued` (firings that wait for it), `dropped` (those without a run that the history lacks),
`paused`, `trigger`, and of the latest owner that has read it the segment and the epoch, `owner_segment` and
`owner_epoch`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from libs.core.errors import UserError
from libs.core.process.isolation import unexpected
from libs.core.store.entities import Entity
from services.bot_scheduler.policy import Definition, Policy, read_definition

NEXT = "next_execution_time"
FIRED_AT = "scheduler.fired_at"
FIRING = "scheduler.firing"
FIRING_RUN = "scheduler.firing.run_id"
QUEUED = "scheduler.queued"
DROPPED = "scheduler.dropped"
PAUSED = "scheduler.paused"
TRIGGER = "scheduler.trigger"
SCHEDULER = "scheduler"
OWNER_SEGMENT = "owner_segment"  # below `scheduler`
OWNER_EPOCH = "owner_epoch"  # below `scheduler`
LAST_RUN = "last_run"  # below `status`


class Cause(StrEnum):
    """The cause of a run: its time, a missed time, a queued firing, or a user's trigger."""

    SCHEDULE = "schedule"
    MISFIRE = "misfire"
    QUEUE = "queue"
    MANUAL = "manual"


class Condition(StrEnum):
    """The state of a schedule between its firings."""

    RUNNING = "running"  # a firing is active
    WAITING = "waiting"  # for its next firing
    PAUSED = "paused"
    DISABLED = "disabled"
    REJECTED = "rejected"  # its config is invalid
    KILLED = "killed"


@dataclass(frozen=True)
class Firing:
    """One firing and its run. Times in Unix seconds.

    Attributes:
        at: its due time; it never starts earlier.
        attempt: from 1 on; each has its own run id.
        host: the Docker host of the worker that claimed this attempt.
        started: its container was certainly started. Otherwise only that host knows.
        not_before: when the attempt may start, if later than *at*.
        waiting: no container was requested, since the engine has no room: any owner of the segment may start it.
    """

    at: int
    run_id: str
    cause: Cause = Cause.SCHEDULE
    attempt: int = 1
    host: str = ""
    worker: str = ""
    epoch: int = 0
    started: bool = False
    not_before: float = 0.0
    waiting: bool = False

    @property
    def begins_at(self) -> float:
        """When it is to start."""
        return max(float(self.at), self.not_before)

    def to_document(self) -> dict[str, Any]:
        """Return it as stored."""
        return {
            "at": self.at,
            "run_id": self.run_id,
            "cause": str(self.cause),
            "attempt": self.attempt,
            "host": self.host,
            "worker": self.worker,
            "epoch": self.epoch,
            "started": self.started,
            "not_before": self.not_before,
            "waiting": self.waiting,
        }

    @classmethod
    def from_document(cls, document: object) -> "Firing | None":
        """Parse the result of :meth:`to_document`; None without one."""
        if not isinstance(document, Mapping):
            return None
        return cls(
            at=int(document["at"]),
            run_id=str(document["run_id"]),
            cause=Cause(document.get("cause", Cause.SCHEDULE)),
            attempt=int(document.get("attempt", 1)),
            host=str(document.get("host", "")),
            worker=str(document.get("worker", "")),
            epoch=int(document.get("epoch", 0)),
            started=bool(document.get("started")),
            waiting=bool(document.get("waiting")),
            not_before=float(document.get("not_before", 0.0)),
        )


@dataclass(frozen=True)
class DroppedFiring:
    """A firing without a run, from the claim that drops it until the history has it. Times in Unix seconds.

    Attributes:
        run_id: of its record: a record that is written again is the same one.
        dropped_at: when it was dropped.
    """

    at: int
    run_id: str
    reason: str
    dropped_at: float
    message: str

    @property
    def firing(self) -> Firing:
        """The firing."""
        return Firing(self.at, self.run_id)

    def to_document(self) -> dict[str, Any]:
        """Return it as stored."""
        return {
            "at": self.at,
            "run_id": self.run_id,
            "reason": self.reason,
            "dropped_at": self.dropped_at,
            "message": self.message,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "DroppedFiring":
        """Parse the result of :meth:`to_document`."""
        return cls(
            at=int(document["at"]),
            run_id=str(document["run_id"]),
            reason=str(document["reason"]),
            dropped_at=float(document["dropped_at"]),
            message=str(document["message"]),
        )


@dataclass(frozen=True)
class Trigger:
    """A run that a user requested at *requested_at* (Unix seconds)."""

    id: str
    requested_at: float


@dataclass(frozen=True)
class ScheduleState:
    """One schedule by its document.

    Attributes:
        definition: None when the config is invalid; *problem* has the reason.
        runnable: enabled, not paused and not held.
        held: a hold keeps it down; then it has no runs, not even triggered ones.
        next_at: `next_execution_time`; None until the first owner has computed it.
    """

    entity: Entity
    definition: Definition | None
    problem: str
    next_at: int | None
    fired_at: int
    firing: Firing | None
    queued: tuple[int, ...]
    paused: bool
    trigger: Trigger | None
    dropped: tuple[DroppedFiring, ...] = ()

    @property
    def id(self) -> str:
        """The schedule's id."""
        return self.entity.id

    @property
    def held(self) -> bool:
        """Whether a hold keeps it down."""
        return self.entity.held is not None

    @property
    def policy(self) -> Policy:
        """The policies of its config; the defaults while it is invalid."""
        return self.definition.policy if self.definition is not None else Policy()

    @property
    def runnable(self) -> bool:
        """Whether its firings become runs."""
        return self.entity.should_run and not self.paused

    @property
    def expected(self) -> dict[str, object]:
        """The condition of a claim: the document is unchanged, and in its segment, since it was read."""
        document = self.entity.document
        return {**self.entity.as_read, "segment_id": document.get("segment_id"), NEXT: document.get(NEXT)}

    @classmethod
    def of(cls, entity: Entity) -> "ScheduleState":
        """Read a document, also one of an older runtime. An unreadable one becomes a schedule with a *problem*."""
        try:
            return cls._of(entity)
        except Exception as error:  # noqa: BLE001 - one broken document must not hide the others of its segment
            unexpected("read schedule", error, schedule=entity.id)
            problem = f"its document cannot be read ({type(error).__name__}: {error}); deploy it again"
            return cls(
                entity=entity,
                definition=None,
                problem=problem,
                next_at=None,
                fired_at=0,
                firing=None,
                queued=(),
                paused=False,
                trigger=None,
            )

    @classmethod
    def _of(cls, entity: Entity) -> "ScheduleState":
        ours = entity.document.get(SCHEDULER)
        ours = ours if isinstance(ours, Mapping) else {}
        definition, problem = None, ""
        try:
            definition = read_definition(entity.config)
        except UserError as error:
            problem = str(error)
        trigger = ours.get("trigger")
        next_at = entity.document.get(NEXT)
        return cls(
            entity=entity,
            definition=definition,
            problem=problem,
            next_at=int(next_at) if isinstance(next_at, int | float) and next_at > 0 else None,
            fired_at=int(ours.get("fired_at") or 0),
            firing=Firing.from_document(ours.get("firing")),
            queued=tuple(int(at) for at in ours.get("queued") or ()),
            paused=bool(ours.get("paused")),
            trigger=Trigger(str(trigger["id"]), float(trigger["requested_at"])) if trigger else None,
            dropped=_dropped(ours.get("dropped")),
        )

    def after_write(self, changes: Mapping[str, object]) -> "ScheduleState":
        """Return the state after *changes*, by field name, have been written to its document."""
        state = self
        if NEXT in changes:
            next_at = changes[NEXT]
            document = {**state.entity.document, NEXT: next_at}
            entity = replace(state.entity, document=document)
            state = replace(state, entity=entity, next_at=next_at if isinstance(next_at, int) else None)
        if isinstance(fired_at := changes.get(FIRED_AT), int):
            state = replace(state, fired_at=fired_at)
        if FIRING in changes:
            state = replace(state, firing=Firing.from_document(changes[FIRING]))
        if QUEUED in changes:
            queued = changes[QUEUED]
            state = replace(state, queued=tuple(queued) if isinstance(queued, list) else ())
        if TRIGGER in changes:
            state = replace(state, trigger=None)
        if DROPPED in changes:
            state = replace(state, dropped=_dropped(changes[DROPPED]))
        return state


def _dropped(documents: object) -> tuple[DroppedFiring, ...]:
    return tuple(map(DroppedFiring.from_document, documents)) if isinstance(documents, list) else ()


def keeps_place(entity: Entity, run_id: str) -> bool:
    """Whether the run is the schedule's active attempt, started or about to be; see :class:`OwnerQuotas`."""
    firing = ScheduleState.of(entity).firing
    return firing is not None and firing.run_id == run_id
