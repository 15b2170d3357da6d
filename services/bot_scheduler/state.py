"""The state of a schedule's firings in its document, read once and written back in small updates.

Beside the contract's `next_execution_time` there is one field of ours, `scheduler`: `fired_at` (the latest firing that
was claimed), `firing` (the one that is being run), `queued` (firings that wait for it), `paused`, `trigger`, and of the
latest owner that has read it the segment and the epoch, `owner_segment` and `owner_epoch`.
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
PAUSED = "scheduler.paused"
TRIGGER = "scheduler.trigger"
OURS = "scheduler"
OWNER_SEGMENT = "owner_segment"  # below `scheduler`
OWNER_EPOCH = "owner_epoch"  # below `scheduler`
LAST_RUN = "last_run"  # below `status`


class Cause(StrEnum):
    """Why a run is there: its time came, it came while nobody was there, another run was in its way, or a person."""

    SCHEDULE = "schedule"
    MISFIRE = "misfire"
    QUEUE = "queue"
    MANUAL = "manual"


class Condition(StrEnum):
    """Where a schedule is between its firings."""

    RUNNING = "running"  # one of its firings is in hand
    WAITING = "waiting"  # for its next firing
    PAUSED = "paused"
    DISABLED = "disabled"
    REJECTED = "rejected"  # its config is wrong
    KILLED = "killed"


@dataclass(frozen=True)
class Firing:
    """One firing and its run. Times in Unix seconds.

    Attributes:
        at: when it was due; it is never begun before that.
        attempt: from 1 on; each has a run id of its own.
        host: the Docker host of the worker that claimed this attempt.
        started: its container was started for certain. Without it, whether it was is known to that host alone.
        not_before: when the attempt may begin, if that is later than *at*.
        waiting: no container was asked for, since the engine has no room: whoever owns the segment may begin it.
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
        """When it is to begin."""
        return max(float(self.at), self.not_before)

    def to_document(self) -> dict[str, Any]:
        """As it is stored."""
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
        """Read what :meth:`to_document` wrote; None when there is none."""
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
class Trigger:
    """A run that a person asked for at *requested_at* (Unix seconds)."""

    id: str
    requested_at: float


@dataclass(frozen=True)
class ScheduleState:
    """One schedule as its document has it.

    Attributes:
        definition: None when the config is wrong; *problem* says how.
        runnable: enabled, not paused and not held by a kill switch.
        held: a kill switch keeps it down; then nothing of it runs, whoever asks.
        next_at: `next_execution_time`; None until the first owner has worked it out.
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

    @property
    def id(self) -> str:
        """The schedule's id."""
        return self.entity.id

    @property
    def held(self) -> bool:
        """Whether a kill switch keeps it down."""
        return self.entity.held is not None

    @property
    def policy(self) -> Policy:
        """The rules of its config; the usual ones while that is wrong."""
        return self.definition.policy if self.definition is not None else Policy()

    @property
    def runnable(self) -> bool:
        """Whether its firings become runs."""
        return self.entity.should_run and not self.paused

    @property
    def expected(self) -> dict[str, object]:
        """What a claim finds in the document if nobody has changed it since it was read."""
        return {**self.entity.as_read, NEXT: self.entity.document.get(NEXT)}

    @classmethod
    def of(cls, entity: Entity) -> "ScheduleState":
        """Read a document, also one of an older runtime. One that cannot be read is a schedule with a *problem*."""
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
        ours = entity.document.get(OURS)
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
        )

    def after_write(self, changes: Mapping[str, object]) -> "ScheduleState":
        """The state once *changes*, by the names of their fields, have been written to its document."""
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
        return state
