"""The stored state of a stack between two commands: ports, processes, and the clients' settings."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tools.stack.process_identity import ProcessIdentity

_FILE = "stack.json"


@dataclass(frozen=True)
class Part:
    """One process of a stack. *http_port* is None for servers without a health check over HTTP."""

    name: str
    process: ProcessIdentity
    port: int
    log: str
    http_port: int | None = None


@dataclass(frozen=True)
class StackState:
    """A stack as of its last change. Ports stay the same from one start to the next.

    Attributes:
        environment: the settings with which clients and services reach the servers.
        scopes: the container scopes of its databases, to find their containers.
    """

    ports: Mapping[str, int] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    scopes: tuple[str, ...] = ()

    def part(self, name: str) -> Part | None:
        """Return the part with this name, running or not."""
        return next((part for part in self.parts if part.name == name), None)

    @property
    def running(self) -> bool:
        """Whether at least one process lives."""
        return any(part.process.alive for part in self.parts)


def load(directory: Path) -> StackState:
    """Return the stack of *directory*; an empty one when it does not exist or its file is unreadable."""
    try:
        content = json.loads((directory / _FILE).read_text())
        parts = tuple(_part(item) for item in content["parts"])
        return StackState(content["ports"], parts, content["environment"], tuple(content["scopes"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return StackState()


def save(directory: Path, state: StackState) -> None:
    """Store *state*; the file is always complete, and readable by its owner only."""
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory / f"{_FILE}.{os.getpid()}"
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(asdict(state), indent=2))
    fresh.rename(directory / _FILE)


def _part(item: Mapping[str, Any]) -> Part:
    return Part(**{**item, "process": ProcessIdentity(**item["process"])})
