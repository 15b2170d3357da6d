"""The status in a bot's document: written by its owner, read by users and by the next owner."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from libs.core.room import Need
from libs.core.store.releases import Rejection
from services.bot_runner.restarts import RestartHistory


class BotState(StrEnum):
    """The state of a bot.

    STARTING and RUNNING have a container; BACKING_OFF will restart by itself; WAITING starts as soon as the engine
    has room for it; REJECTED requires a correction by its owner (it is retried at the maximum delay); the others
    are switched off intentionally.
    """

    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing-off"
    WAITING = "waiting"
    REJECTED = "rejected"
    DISABLED = "disabled"
    KILLED = "killed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class BotStatus:
    """The `status` field of a bot's document. A worker writes it whole, and only when it changed.

    Attributes:
        detail: one sentence for the bot's owner; empty without further information.
        since: when this state began, UTC.
        revision: the document's revision to which the state belongs.
        rejection: why the version of that revision does not run, also while an earlier one does.
        lacking: what it needs of an engine while it waits for room; None otherwise.
        running_revision: the revision that runs, starts, or ended last; 0 for none.
    """

    bot_id: str
    state: BotState
    since: datetime
    detail: str = ""
    revision: int = 0
    worker: str = ""
    container: str = ""
    run_id: str = ""
    last_exit: Mapping[str, Any] | None = None
    history: RestartHistory = field(default_factory=RestartHistory)
    rejection: Rejection | None = None
    running_revision: int = 0
    lacking: Need | None = None

    def to_document(self) -> dict[str, Any]:
        """Return it as stored."""
        return {
            "state": str(self.state),
            "since": self.since,
            "detail": self.detail,
            "revision": self.revision,
            "worker": self.worker,
            "container": self.container,
            "run_id": self.run_id,
            "last_exit": dict(self.last_exit) if self.last_exit else None,
            "restarts": self.history.restarts,
            "failures": self.history.failures,
            "not_before": self.history.not_before,
            "counted_run": self.history.counted_run,
            "restart": self.history.restart,
            "running_revision": self.running_revision,
            "lacking": self.lacking.to_document() if self.lacking is not None else None,
            "rejection": self.rejection.to_document() if self.rejection is not None else None,
        }

    def equals_except_time(self, other: "BotStatus | None") -> bool:
        """Whether it equals *other* except for the time."""
        if other is None:
            return False
        mine, theirs = self.to_document(), other.to_document()
        mine.pop("since")
        theirs.pop("since")
        return mine == theirs

    def matches(self, document: Mapping[str, Any]) -> bool:
        """Whether a bot's stored `status` has the same state and run."""
        return (document.get("state"), document.get("run_id")) == (str(self.state), self.run_id)


def history_from(document: Mapping[str, Any]) -> RestartHistory:
    """Return the restart history in a bot's *document*; an empty one without it."""
    status = document.get("status")
    if not isinstance(status, Mapping):
        return RestartHistory()
    return RestartHistory(
        failures=_number(status.get("failures")),
        restarts=_number(status.get("restarts")),
        not_before=float(_number(status.get("not_before"))),
        counted_run=str(status.get("counted_run") or ""),
        restart=str(status.get("restart") or ""),
    )


def _number(value: object) -> int:
    # An infinity is a number, but not an integer.
    return int(value) if isinstance(value, int | float) and 0 <= value < 1 << 62 else 0


def utc_now() -> datetime:
    """Return the current time, with its zone."""
    return datetime.now(UTC)
