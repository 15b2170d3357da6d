"""The desired state of one bot, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from libs.core.store.releases import Rejection, Release, Version
from libs.core.store.relocations import Relocation
from libs.docker_runner.executable import Executable
from services.bot_runner.restarts import RestartHistory
from services.bot_runner.verdicts import Unknown, Verdict


class StopReason(StrEnum):
    """Why a running container must be stopped."""

    DELETED = "deleted"
    DISABLED = "disabled"
    KILLED = "killed"
    STOPPED = "stopped"
    CHANGED = "changed"
    RESTARTED = "restarted"
    REJECTED = "rejected"
    MISPLACED = "misplaced"
    """Its placement is not that of its segment, to whose worker it does not belong."""
    MOVED = "moved"
    """It moves to another segment, as ordered."""


@dataclass(frozen=True)
class DesiredBot:
    """The desired state in one bot's document.

    Attributes:
        revision: of the newest version.
        history: its failures so far.
        executable: the newest version; None when it cannot be built, with the reason in *rejection*.
        version: the newest version, as it is stored when it is accepted.
        absence: why nothing may run, regardless of versions; None when something may.
        undecided: the document is unreadable: a running container stays, and nothing is started.
        rejection: why the newest version may not run; None without a known reason.
        verdict: the result of its check; None before the check.
        release: the accepted versions, as stored in the document.
        release_is_void: the bot was idle since, and has another version now: an earlier one must not run.
        accepted: the last accepted version, if it is not the newest; None when it cannot be built either.
        relocation: the order to move it to another segment; None without a valid one.
        stored_status: the status in its document.
        trace: of the current event.
    """

    id: str
    revision: int
    history: RestartHistory
    executable: Executable | None = None
    version: Version | None = None
    absence: StopReason | None = None
    undecided: bool = False
    rejection: Rejection | None = None
    verdict: Verdict | None = None
    release: Release = field(default_factory=Release)
    release_is_void: bool = False
    accepted: Executable | None = None
    relocation: Relocation | None = None
    stored_status: Mapping[str, object] = field(default_factory=dict)
    trace: Mapping[str, str] = field(default_factory=dict)

    @property
    def runnable(self) -> Executable | None:
        """What runs or is to run; None for nothing."""
        return self.accepted if self.rejection is not None else self.executable

    def runs_newest(self, running_revision: int) -> bool:
        """Whether a container that was started for *running_revision* runs the newest version."""
        current = self.release.current
        return running_revision == self.revision or (current is not None and current.revision == self.revision)

    def note(self, running_revision: int, held_up: str = "") -> str:
        """Return one sentence about a newest version that does not run while *running_revision* does; "" for none.

        Args:
            held_up: what the checked and accepted newest version waits for.
        """
        if self.runs_newest(running_revision):
            return ""
        current = self.release.current
        known = current.revision if current is not None else running_revision
        newest, running = f"revision {self.revision}", f"revision {known}"
        ours = self.version.name if self.version is not None else ""
        theirs = current.name if current is not None else ""
        if ours and theirs and ours != theirs:
            newest, running = f"version {ours}", f"version {theirs}"
        if self.rejection is not None:
            return f"{newest} rejected: {self.rejection.detail}; {running} keeps running"
        if isinstance(self.verdict, Unknown):
            held_up = self.verdict.detail
        return f"{newest} waits: {held_up}; {running} keeps running" if held_up else ""
