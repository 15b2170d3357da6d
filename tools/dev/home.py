"""The folder of a user's stacks."""

import os
from collections.abc import Mapping
from pathlib import Path


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return RUNTIME_HOME, else `the0-runtime` in the XDG state folder (`~/.local/state`)."""
    given = environ.get("RUNTIME_HOME")
    if given:
        return Path(given).expanduser().absolute()
    state = environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "the0-runtime"
