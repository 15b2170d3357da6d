"""The desired state of one bot, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from libs.core.store.releases import Rejection, Release, Version
from libs.docker_runner.executable import Executable
from services.bot_runner.restarts import RestartHistory
from services.bot_runner.verdicts import Unknown, Verdict


class StopReason(StrEnum):
    """Why a container that runs must not."""

    DELETED = "deleted"
    DISABLED = "disabled"
    KILLED = "killed"
    STOPPED = "stopped"
    CHANGED = "changed"
    REJECTED = "rejected"


@dataclass(frozen=True)
class DesiredBot:
    """What one bot's document asks for.

    Attributes:
        revision: of the newest version.
        history: its deaths so far.
        executable: the newest version; None when it cannot be built, and then *rejection* says why.
        version: the newest version, as it is kept when it is accepted.
        absence: why nothing may run, whatever the versions; None when something may.
        undecided: the document could not be read: what runs is left alone, nothing is started.
        rejection: why the newest version may not run; None when nothing speaks against it so far.
        verdict: what its check found; None when it was not checked.
        release: which versions were accepted, as the document has it.
        release_is_void: the bot was at rest since, and has another version now: what ran before that must not run.
        accepted: the version that was accepted last, where it is not the newest; None when it cannot be built either.
        stored_status: its status, as its document has it.
        trace: of the event that the document follows.
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
        """One sentence about a newest version that does not run while that of *running_revision* does; "" for none.

        Args:
            held_up: what the newest version waits for, if it was checked and accepted.
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
