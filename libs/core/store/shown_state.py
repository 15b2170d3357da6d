"""The state of an entity as it is shown: its stored status, corrected by its segment's lease. Pure.

A document keeps the last status that a worker wrote, even when that worker is gone. The command, the API, the status
page and the metrics all show the state computed here.
"""

from dataclasses import dataclass
from enum import StrEnum

from libs.core.store.holds import Hold
from libs.core.store.ownership import NOBODY, Ownership


class ShownState(StrEnum):
    """The states that no worker writes."""

    WAITING = "waiting"  # not running; a worker will start it
    UNKNOWN = "unknown"  # it ran on a worker that is gone
    OFF = "off"


UNOWNED_STATES = ("waiting", "unknown", "off", "disabled", "paused", "rejected", "killed", "stopped")
"""The possible states of an entity whose segment has no live owner."""

OVERRIDABLE = ("", "waiting", "paused")
"""Stored states that a hold or `enabled: false` overrides."""

_ALIVE = {"starting", "running"}
_OFF = {"off", "disabled"}
_NO_OWNER = "no worker has its segment"


@dataclass(frozen=True, slots=True)
class StoredStatus:
    """The status that an entity's document stores.

    Attributes:
        state: the state that the worker wrote; empty when there is none.
        worker: the worker that wrote it; empty when unknown.
        enabled: whether the config lets the entity run.
        hold: the hold that keeps the entity down; None when there is none.
    """

    state: str
    worker: str = ""
    enabled: bool = True
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """A state to show.

    Attributes:
        state: one word.
        why: the correction by the lease, as text; empty when the stored state is shown as it is.
    """

    state: str
    why: str = ""

    @property
    def text(self) -> str:
        """The state in words: `unknown (worker lost 12 s ago)`."""
        return f"{self.state} ({self.why})" if self.state == ShownState.UNKNOWN else self.state


def shown(stored: StoredStatus, owner: Ownership | None) -> Shown:
    """Return the state to show for *stored* while *owner* holds the segment (None: the segment is unknown).

    Nothing runs under an expired lease, since the containers end with it. An entity that ran when its worker was lost
    is `unknown`, because its end was not recorded, unless it must not run in any case.
    """
    owner = owner or NOBODY
    if owner.is_live:
        if stored.state in _ALIVE and stored.worker and stored.worker != owner.worker:
            return Shown(ShownState.UNKNOWN, f"its worker is gone; {owner.worker} takes over")
        return Shown(stored.state if stored.state not in OVERRIDABLE else _meant(stored) or ShownState.WAITING)
    if (meant := _meant(stored)) is not None:
        return Shown(meant)
    if stored.state == "rejected":
        return Shown(stored.state)
    if stored.state in _ALIVE and owner.lost_seconds is not None:
        return Shown(ShownState.UNKNOWN, f"worker lost {_about(owner.lost_seconds)} ago")
    return Shown(ShownState.WAITING, _NO_OWNER)


def run_state(worker: str, owner: Ownership | None) -> str:
    """Return the state of a run on *worker* whose end is not recorded, while *owner* holds its segment."""
    return "running" if owner is not None and owner.is_live and owner.worker == worker else ShownState.UNKNOWN


def _meant(stored: StoredStatus) -> str | None:
    """Return the state of an entity that must not run; None when it should run."""
    if stored.hold is not None:
        return stored.hold.state
    if stored.state == "paused":
        return stored.state
    if not stored.enabled:
        return stored.state if stored.state in _OFF else ShownState.OFF
    return None


def _about(seconds: float) -> str:
    """Format a duration in its largest unit: 12 s, 3 min, 5 h, 2 d."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
