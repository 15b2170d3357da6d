"""Whether this process can do its work, and if not, what it waits for."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class DependencyState:
    """One dependency as last reported. *since* is the Unix time at which *ok* took its present value."""

    ok: bool
    detail: str
    since: float
    required: bool


class Readiness:
    """The states of the things that a process depends on, by name; what ``/readyz`` shows.

    A dependency is known from its first report or declaration on. With none known the process is not ready: it has
    not started to look.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._states: dict[str, DependencyState] = {}

    def expect(self, name: str, detail: str = "not checked yet", *, required: bool = True) -> None:
        """Declare a dependency before its first report: not ok until then. One that was reported is left as it is."""
        self._states.setdefault(name, DependencyState(False, detail, self._clock(), required))

    def report(self, name: str, ok: bool, detail: str = "", *, required: bool | None = None) -> None:
        """Say how *name* is now. Cheap, and may be repeated.

        Args:
            detail: for people: why it is not ok and what to do, or something to know though it is ok. No secrets.
            required: False for something without which the process still does its work (it shows, but does not make
                the process not ready). None keeps what was said before; at first it is True.
        """
        before = self._states.get(name)
        if required is None:
            required = before.required if before is not None else True
        since = before.since if before is not None and before.ok == ok else self._clock()
        self._states[name] = DependencyState(ok, detail, since, required)

    def forget(self, name: str) -> None:
        """The process no longer depends on *name*."""
        self._states.pop(name, None)

    @property
    def ready(self) -> bool:
        """True when every required dependency is ok and at least one dependency is known."""
        return bool(self._states) and all(state.ok for state in self._states.values() if state.required)

    @property
    def states(self) -> dict[str, DependencyState]:
        """The states by name, a copy."""
        return dict(self._states)

    def snapshot(self) -> dict[str, Any]:
        """The answer of ``/readyz``: ``{"status", "dependencies": {name: {"ok", "detail", "since", "required"}}}``."""
        return {
            "status": "ready" if self.ready else "not ready",
            "dependencies": {
                name: {
                    "ok": state.ok,
                    "detail": state.detail,
                    "since": datetime.fromtimestamp(state.since, UTC).isoformat(timespec="milliseconds"),
                    "required": state.required,
                }
                for name, state in sorted(self._states.items())
            },
        }
