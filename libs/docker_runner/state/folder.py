"""The folder that a worker shares with the init of one start, for archives of the bot's state. Blocks briefly."""

import json
from dataclasses import dataclass
from pathlib import Path

_ABOUT = "state.json"


@dataclass(frozen=True)
class StateOf:
    """Whose state is in a folder."""

    entity_id: str
    service: str
    segment: int
    run_id: str


@dataclass(frozen=True)
class StateFolder:
    """The folder of the start *token*. It is mounted into the container; whose state it is stands beside it."""

    path: Path
    token: str

    @property
    def restored(self) -> Path:
        """The state at the start of the container: a tar from the worker, if there is a saved state."""
        return self.path / "restore.tar"

    @property
    def saved(self) -> Path:
        """The latest tar from the init, which is replaced as a whole; hostile."""
        return self.path / "saved"

    @property
    def problem(self) -> Path:
        """One word of the init about why there is no newer one; hostile."""
        return self.path / "problem"

    def create(self, of: StateOf) -> None:
        """Create it for the state of *of*."""
        about = self.path.parent / _ABOUT
        about.write_text(json.dumps(vars(of)))
        about.chmod(0o600)
        self.path.mkdir()
        # The container's root, which replaces files in it, has no privileges over files; the bot cannot reach it.
        self.path.chmod(0o777)

    def about(self) -> StateOf | None:
        """Return whose state it is; None when the folder is removed."""
        try:
            return StateOf(**json.loads((self.path.parent / _ABOUT).read_text()))
        except FileNotFoundError:
            return None
