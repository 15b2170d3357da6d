"""The folder by which a worker lets a standby start its bot (``sandbox/init/standby.c``). Blocks briefly."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from libs.docker_runner.containers.container import ContainerState, ManagedContainer

_GO = "go"


@dataclass(frozen=True)
class StandbyFolder:
    """The folder of one start, which the container has mounted read-only.

    Attributes:
        word: what the init waits for; of this start under this ownership alone.
    """

    path: Path
    word: str = ""

    def create(self) -> None:
        """Create it, without the word."""
        self.path.mkdir()
        self.path.chmod(0o755)

    def let_go(self, *, restored: bool) -> None:
        """Let the bot start.

        Args:
            restored: whether a state to begin with was laid.
        """
        new = self.path / ".go"
        new.write_text(f"{self.word} {int(restored)}\n")
        new.chmod(0o444)
        new.rename(self.path / _GO)

    def let_go_at(self) -> datetime | None:
        """Return when the bot was let go; None while it waits.

        Raises:
            FileNotFoundError: the folder is not on this host any more, so that it is unknown.
        """
        try:
            return datetime.fromtimestamp((self.path / _GO).stat().st_mtime, UTC)
        except FileNotFoundError:
            self.path.stat()
            return None


def as_run(container: ManagedContainer, let_go_at: datetime | None) -> ManagedContainer:
    """Return *container*, which was a standby, as the run of its bot, which begins at *let_go_at*. Pure.

    Until then it counts as created and not started, like a container whose worker died before it started it.
    """
    if let_go_at is None:
        waits = container.state is ContainerState.RUNNING
        return replace(container, state=ContainerState.CREATED) if waits else container
    if container.started_at is None:
        return container
    return replace(container, started_at=max(container.started_at, let_go_at))
