"""The state of an entity as it is shown: what its document tells, as far as its segment's lease bears it out. Pure.

A document keeps what a worker wrote last, also when that worker is gone. Whoever shows a state shows this one: the
command, the API, the status page and the metrics.
"""

from dataclasses import dataclass
from enum import StrEnum

from libs.core.store.holds import Hold
from libs.core.store.ownership import NOBODY, Ownership


class ShownState(StrEnum):
    """The states that are not the words of a worker."""

    WAITING = "waiting"  # nothing of it runs, and a worker is to come
    UNKNOWN = "unknown"  # it ran on a worker that is gone
    OFF = "off"


UNOWNED_STATES = ("waiting", "unknown", "off", "disabled", "paused", "rejected", "killed", "stopped")
"""What an entity may be in a segment without a live owner."""

UNSAID = ("", "waiting", "paused")
"""Words that say nothing against a hold, or a config that switches the entity off."""

_ALIVE = {"starting", "running"}
_OFF = {"off", "disabled"}
_NO_OWNER = "no worker has its segment"


@dataclass(frozen=True, slots=True)
class StoredStatus:
    """What an entity's document tells.

    Attributes:
        state: the worker's word; empty when there is none.
        worker: the worker that wrote it; empty when it is not known.
        enabled: whether its config lets it run.
        hold: what keeps it down, if anything does.
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
        why: what the lease adds to it, in words; empty where the document's own words stand.
    """

    state: str
    why: str = ""

    @property
    def text(self) -> str:
        """The state in words: `unknown (worker lost 12 s ago)`."""
        return f"{self.state} ({self.why})" if self.state == ShownState.UNKNOWN else self.state


def shown(stored: StoredStatus, owner: Ownership | None) -> Shown:
    """The state of an entity of which *stored* is known, while *owner* has its segment (None: the segment is not known).

    Nothing runs under a lease that is over, since the containers end with it. Of what ran when its worker was lost,
    nobody has seen the end: it is unknown, unless it is not to run in any case.
    """
    owner = owner or NOBODY
    if owner.is_live:
        if stored.state in _ALIVE and stored.worker and stored.worker != owner.worker:
            return Shown(ShownState.UNKNOWN, f"its worker is gone, and {owner.worker} takes over")
        return Shown(stored.state if stored.state not in UNSAID else _meant(stored) or ShownState.WAITING)
    if (meant := _meant(stored)) is not None:
        return Shown(meant)
    if stored.state == "rejected":
        return Shown(stored.state)
    if stored.state in _ALIVE and owner.lost_seconds is not None:
        return Shown(ShownState.UNKNOWN, f"worker lost {_about(owner.lost_seconds)} ago")
    return Shown(ShownState.WAITING, _NO_OWNER)


def run_state(worker: str, owner: Ownership | None) -> str:
    """The state of a run on *worker* whose end is not recorded, while *owner* has its segment."""
    return "running" if owner is not None and owner.is_live and owner.worker == worker else ShownState.UNKNOWN


def _meant(stored: StoredStatus) -> str | None:
    """The state of what is not to run; None when it is to."""
    if stored.hold is not None:
        return stored.hold.state
    if stored.state == "paused":
        return stored.state
    if not stored.enabled:
        return stored.state if stored.state in _OFF else ShownState.OFF
    return None


def _about(seconds: float) -> str:
    """A time in its largest unit: 12 s, 3 min, 5 h, 2 d."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
